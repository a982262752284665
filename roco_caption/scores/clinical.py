"""What a caption states of modality, region, side, numbers, findings ruled out; slips in these.

Word lists, made by reading ROCO's captions. They find what a caption states, not what the image
shows, and give "" where it states nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from roco_caption.core.errors import UserError

# "*" stands for any letters; a space matches a space, a hyphen, or both words written as one.
_MODALITIES = {
    "CT": """
        ct, cts, cta, cect, ncct, hrct, cbct, tdm, scanner, *computed * tomogra*,
        *computed tomogra*, computeri* tomogra*, computer tomogra*, computeri* axial tomogra*,
        cat scan, cone beam, ct angio*, angio ct, ct*gra*, tomogram, tomography, tomodensitom*,
        mdct, msct""",
    "MR": """
        mr, mri, mris, fmri, magnetic resonance, magnetic resonant, mra, mrv, mrcp, cmr, irm, t1,
        t2, t1w*, t2w*, flair, stir, dwi, swi, gadolinium*, tractogra*, spin echo, gradient echo,
        diffusion weighted, mrt""",
    "ultrasound": """
        *ultrasoun*, ultrasono*, endoscopic ultraso*, sono*, *echocardio*, echo, echogra*,
        échogra*, doppler, us, eus, uss, usg, ivus, tte, tee, b mode, m mode, duplex, hypoechoic,
        anechoic, hyperechoic, parasternal, subcostal, apical * chamber, four chamber view,
        transesophageal, transthoracic""",
    "nuclear": """
        pet, fdg, 18f, spect, positron emission, single photon, *scintigra*, bone scan""",
    "mammography": """
        mammogra*, tomosynthesis""",
    "angiography": """
        *angiogra*, *angiogram*, arteriogra*, aortogra*, dsa, digital subtraction, *venogra*,
        ventriculogra*, phlebogra*, portogra*, cavogra*, emboli*ation""",
    "fluoroscopy": """
        *fluoroscop*, barium, *esophagogra*, *oesophagogra*, ercp, *cholangio*gra*, gastrografin,
        *urethrogra*, *cystogra*, *pyelogra*, *urogra*, ivu, ivp, vcug, *salpingogra*, hsg,
        fistulogra*, myelogra*, arthrogra*, sialogra*, defecogra*, enema, contrast swallow,
        pyelo*gra*""",
    "radiograph": """
        *radiogra*, x ray, x rays, xr, xray*, roentgen*, cxr, panoramic, opg, opt, orthopanto*,
        pantomogra*, *cephalogra*, cephalometric, periapical, bitewing, iopa, kub, plain film,
        plain films, chest film, ap view, pa view, anteroposterior view, lateral view,
        skyline view, mortise view""",
    "optical": """
        oct, optical coherence, fundus, photogra*, *microscop*, *endoscop*, *histolog*,
        colonoscop*, laparoscop*, intraoperative view""",
}

_REGIONS = {
    "head": """
        brain, head, *cranial, *cranium, skull, *cereb*, frontal lobe, temporal, parietal,
        occipital, *ventricles, hippocamp*, pituitary, thalam*, pons, basal ganglia, white matter,
        sella*, *orbit*, eye, ocular, retina*, sinus, sinuses, nasal, ear, petrous,
        carotid artery, middle cerebral, basilar, corpus callosum, crani*, mening*, facial""",
    "teeth and jaws": """
        *mandib*, maxill*, tooth, teeth, molar*, premolar*, incisor*, canine*, dental, root,
        roots, periapical, panoramic, *dont*, alveolar bone, jaw, tmj, temporomandibular, implant,
        cephalogra*, opg, orthopanto*, condyle, apical""",
    "neck": """
        neck, *thyroid*, cervical lymph, laryn*, pharyn*, *pharyngeal, parotid, submandibular,
        trachea*, carotid, jugular""",
    "spine": """
        spine, spinal, *vertebra*, lumbar, sacral, *lumbosacral, cervical, thoracolumbar, disc,
        disk, l1, l2, l3, l4, l5, s1, t12, l4 l5, l5 s1, c1, c2, c5, c6, cord, odontoid, scolio*,
        sacrum""",
    "heart": """
        heart, cardiac, *cardi*, coronary, atrial, atrium, ventricular, ventricle, aortic valve,
        mitral, tricuspid, *septal, lad, rca, lvot, left main, echocardio*, circumflex""",
    "chest": """
        chest, lung, lungs, *thora*, pulmon*, *pleura*, mediastin*, rib, ribs, hilar, bronch*,
        lobe, *pneumo*, esophag*, oesophag*, aortic arch, diaphragm*, sternum, cxr""",
    "breast": """
        breast, breasts, mammogra*, axilla*""",
    "abdomen": """
        abdom*, liver, hepatic, *hepat*, renal, kidney*, spleen, splenic, pancrea*, gallbladder,
        biliary, bile, *bowel, colon, colonic, stomach, gastric, duoden*, jejun*, ileum, ileal,
        ileo*, appendi*, mesenter*, *periton*, adrenal, celiac, *hepatic, cholangio*, mrcp,
        ureter*, portal vein, ct kub, intestin*, cecum, caecum, sigmoid, adrenals, *abdominal""",
    "pelvis": """
        pelvi*, uterus, uterine, *ovar*, bladder, prostat*, rect*, adnex*, endometri*, vagin*,
        testic*, testis, scrot*, hysterosalp*, fetal, fetus, gestation*, iliac, pubic, cervix,
        penile, *urethr*""",
    "arm": """
        hand, wrist, forearm, elbow, shoulder, humer*, radius, ulna*, finger*, thumb, scaph*,
        metacarp*, carpal, clavic*, scapul*, glenoid, rotator, supraspinatus, phalan*, arm,
        radial, brachial""",
    "leg": """
        hip, hips, femur, femor*, knee*, tibia*, fibula*, ankle, foot, feet, calcan*, talus,
        talar, metatars*, patell*, thigh, leg, legs, acetabul*, menisc*, cruciate, popliteal, toe,
        achilles, calf""",
}


def _pattern(terms: str) -> re.Pattern[str]:
    """Return the pattern of a comma-separated list of terms, each as whole words."""
    escaped = [re.escape(term) for term in re.split(r",\s+", terms.strip())]
    spelled = [term.replace(r"\ ", r"[\s‐-]?").replace(r"\*", r"\w*") for term in escaped]
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelled)})(?!\w)")


_MODALITY = {name: _pattern(terms) for name, terms in _MODALITIES.items()}
_REGION = {name: _pattern(terms) for name, terms in _REGIONS.items()}


def modality_of(caption: str) -> str:
    """Return the imaging modality that a caption names first, "" where it names none.

    Args:
        caption: any text, in capitals or not.

    Returns:
        A key of the list above: "CT", "MR", "ultrasound", "nuclear" (also PET/CT), "mammography",
        "angiography", "fluoroscopy", "radiograph", "optical". "CT angiography" is "CT".
    """
    text = caption.lower()
    found = [(match.start(), name) for name, p in _MODALITY.items() if (match := p.search(text))]
    return min(found, key=lambda hit: hit[0])[1] if found else ""


def region_of(caption: str) -> str:
    """Return the body region with the most words in a caption, "" where it names none.

    Args:
        caption: any text, in capitals or not.

    Returns:
        "head", "teeth and jaws", "neck", "spine", "heart", "chest", "breast", "abdomen", "pelvis",
        "arm" or "leg"; of regions with as many words, the one named first.
    """
    text = caption.lower()
    starts = {name: [m.start() for m in p.finditer(text)] for name, p in _REGION.items()}
    found = [(-len(hits), hits[0], name) for name, hits in starts.items() if hits]
    return min(found)[2] if found else ""


_WORD = re.compile(r"no\.|[^\W_]+(?:[-'][^\W_]+)*|[^\w\s]")
_NEGATIONS = {"no", "without", "absence", "negative"}
# What may stand between a negation and the finding that it rules out …
_FILLERS = set(
    re.findall(r"\w+", "of for any evidence sign signs the a an obvious significant other")
)
# … and what ends its reach.
_ENDS = set(
    re.findall(
        r"\w+",
        """in on at with within from after before by to is are was were but which that as into
        through between shows showing show seen noted demonstrated following during""",
    )
)


def _findings(caption: str) -> tuple[set[str], set[str]]:
    """Return the words that a caption asserts, and those that it rules out.

    Up to four words after "no", "without", "absence of" and their like are ruled out, as far as a
    sign or a preposition. A word that is asserted elsewhere in the caption is not ruled out.
    """
    asserted: set[str] = set()
    negated: set[str] = set()
    reach = 0
    for word in _WORD.findall(caption.lower()):
        if word in _NEGATIONS:
            reach = 4
        elif not word[0].isalpha() or word in _ENDS:
            reach = 0
        elif word not in _FILLERS:
            (negated if reach else asserted).add(word)
            reach = max(0, reach - 1)
    return asserted, negated - asserted


def _sides(caption: str) -> set[str]:
    words = set(re.findall(r"left|right|bilateral", caption.lower()))
    return {"left", "right"} if "bilateral" in words else words


def _numbers(caption: str) -> set[str]:
    """Return the numbers of a caption; T2 and L5 are names, and so are 2D and 3D."""
    found = re.findall(r"(?<![\w.,])\d+(?:[.,]\d+)?(?!\d*-?d\b)", caption.lower())
    return {number.replace(",", ".") for number in found}


def _slips(reference: str, hypothesis: str) -> dict[str, bool]:
    modalities = {modality_of(reference), modality_of(hypothesis)}
    sides = _sides(reference), _sides(hypothesis)
    negated, asserted = _findings(reference)[1], _findings(hypothesis)[0]
    return {
        "modality": len(modalities) == 2 and "" not in modalities,
        "side": len(sides[0]) == len(sides[1]) == 1 and sides[0] != sides[1],
        "negation": bool(negated & asserted),
        "number": bool(_numbers(hypothesis) - _numbers(reference)),
    }


def slips(references: Sequence[str], hypotheses: Sequence[str]) -> pd.Series:
    """Return the shares of captions with a slip that would mislead a clinician.

    Simple rules over words, to compare systems by; a caption that states little slips little.

    Args:
        references: n captions.
        hypotheses: n captions.

    Returns:
        Shares of the n captions. "modality": both name one, and not the same. "side": the one says
        only left, the other only right. "negation": it asserts a word that the reference only
        rules out ("no fracture"). "number": it has a number that the reference has not.

    Raises:
        UserError: lengths that do not match, or no caption.
    """
    if len(references) != len(hypotheses) or not len(references):
        raise UserError(
            f"There are {len(hypotheses)} hypotheses for {len(references)} references: "
            "give one for each image, and at least one."
        )
    rows = [_slips(*pair) for pair in zip(references, hypotheses, strict=True)]
    return pd.DataFrame(rows).mean().rename("slips")
