"""Reads modality, region, side, numbers, negations from captions by word lists made from ROCO's."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from roco_caption.core.errors import UserError


def _pattern(terms: str) -> re.Pattern[str]:
    """Return the pattern of a comma-separated list of terms, each as whole words.

    "*" matches any letters; a space matches a space, a hyphen, or nothing.
    """
    escaped = [re.escape(term) for term in re.split(r",\s+", terms.strip())]
    spelled = [term.replace(r"\ ", r"[\s‐-]?").replace(r"\*", r"\w*") for term in escaped]
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelled)})(?!\w)")


_MODALITIES = {
    "CT": _pattern("""
        ct, cts, cta, cect, ncct, hrct, cbct, tdm, scanner, *computed * tomogra*,
        *computed tomogra*, computeri* tomogra*, computer tomogra*, cat scan, cone beam, ct angio*,
        tomogram, tomography, tomodensitom*, mdct, msct"""),
    "MR": _pattern("""
        mr, mri, fmri, magnetic resonance, mra, mrv, mrcp, cmr, irm, t1, t2, t1w*, t2w*, flair,
        stir, dwi, swi, gadolinium*, tractogra*, spin echo, gradient echo, diffusion weighted"""),
    "ultrasound": _pattern("""
        *ultrasoun*, ultrasono*, endoscopic ultraso*, sono*, *echocardio*, echo, echogra*, échogra*,
        doppler, us, eus, uss, usg, ivus, tte, tee, b mode, m mode, duplex, hypoechoic, anechoic,
        hyperechoic, parasternal, subcostal, apical * chamber, four chamber view, transesophageal,
        transthoracic"""),
    "nuclear": _pattern("""
        pet, fdg, 18f, spect, positron emission, single photon, *scintigra*, bone scan"""),
    "mammography": _pattern("mammogra*, tomosynthesis"),
    "angiography": _pattern("""
        *angiogra*, *angiogram*, arteriogra*, aortogra*, dsa, digital subtraction, *venogra*,
        ventriculogra*, phlebogra*, portogra*, cavogra*, emboli*ation"""),
    "fluoroscopy": _pattern("""
        *fluoroscop*, barium, *esophagogra*, ercp, *cholangio*gra*, gastrografin, *urethrogra*,
        *cystogra*, *pyelogra*, *urogra*, ivu, ivp, vcug, *salpingogra*, hsg, fistulogra*,
        myelogra*, arthrogra*, sialogra*, enema, contrast swallow, pyelo*gra*"""),
    "radiograph": _pattern("""
        *radiogra*, x ray, x rays, xr, xray*, roentgen*, cxr, panoramic, opg, opt, orthopanto*,
        pantomogra*, *cephalogra*, cephalometric, periapical, bitewing, iopa, kub, plain film,
        chest film, ap view, pa view, anteroposterior view, lateral view"""),
    "optical": _pattern("""
        oct, optical coherence, fundus, photogra*, *microscop*, *endoscop*, *histolog*, colonoscop*,
        laparoscop*, intraoperative view"""),
}

_REGIONS = {
    "head": _pattern("""
        brain, head, *cranial, *cranium, skull, *cereb*, frontal lobe, temporal, parietal,
        occipital, *ventricles, hippocamp*, pituitary, thalam*, pons, basal ganglia, white matter,
        sella*, *orbit*, eye, ocular, retina*, sinus, sinuses, nasal, ear, petrous, carotid artery,
        middle cerebral, basilar, corpus callosum, crani*, mening*, facial"""),
    "teeth and jaws": _pattern("""
        *mandib*, maxill*, tooth, teeth, molar*, premolar*, incisor*, canine*, dental, root, roots,
        periapical, panoramic, *dont*, alveolar bone, jaw, tmj, temporomandibular, implant,
        cephalogra*, opg, orthopanto*, condyle, apical"""),
    "neck": _pattern("""
        neck, *thyroid*, cervical lymph, laryn*, pharyn*, *pharyngeal, parotid, submandibular,
        trachea*, carotid, jugular"""),
    "spine": _pattern("""
        spine, spinal, *vertebra*, lumbar, sacral, *lumbosacral, cervical, thoracolumbar, disc,
        disk, l1, l2, l3, l4, l5, s1, t12, l4 l5, l5 s1, c1, c2, c5, c6, cord, odontoid, scolio*,
        sacrum"""),
    "heart": _pattern("""
        heart, cardiac, *cardi*, coronary, atrial, atrium, ventricular, ventricle, aortic valve,
        mitral, tricuspid, *septal, lad, rca, lvot, left main, echocardio*, circumflex"""),
    "chest": _pattern("""
        chest, lung, lungs, *thora*, pulmon*, *pleura*, mediastin*, rib, ribs, hilar, bronch*, lobe,
        *pneumo*, esophag*, oesophag*, aortic arch, diaphragm*, sternum, cxr"""),
    "breast": _pattern("breast, breasts, mammogra*, axilla*"),
    "abdomen": _pattern("""
        abdom*, liver, *hepat*, renal, kidney*, spleen, splenic, pancrea*, gallbladder, biliary,
        bile, *bowel, colon, colonic, stomach, gastric, duoden*, jejun*, ileum, ileal, ileo*,
        appendi*, mesenter*, *periton*, adrenal, celiac, cholangio*, mrcp, ureter*, portal vein,
        ct kub, intestin*, cecum, caecum, sigmoid, adrenals, *abdominal"""),
    "pelvis": _pattern("""
        pelvi*, uterus, uterine, *ovar*, bladder, prostat*, rect*, adnex*, endometri*, vagin*,
        testic*, testis, scrot*, hysterosalp*, fetal, fetus, gestation*, iliac, pubic, cervix,
        penile, *urethr*"""),
    "arm": _pattern("""
        hand, wrist, forearm, elbow, shoulder, humer*, radius, ulna*, finger*, thumb, scaph*,
        metacarp*, carpal, clavic*, scapul*, glenoid, rotator, supraspinatus, phalan*, arm, radial,
        brachial"""),
    "leg": _pattern("""
        hip, hips, femur, femor*, knee*, tibia*, fibula*, ankle, foot, feet, calcan*, talus, talar,
        metatars*, patell*, thigh, leg, legs, acetabul*, menisc*, cruciate, popliteal, toe,
        achilles, calf"""),
}


def modality_of(caption: str) -> str:
    """Return the imaging modality that a caption names first, a key of `_MODALITIES`, or ""."""
    text = caption.lower()
    starts = {name: m.start() for name, p in _MODALITIES.items() if (m := p.search(text))}
    return min(starts, key=starts.__getitem__, default="")


def region_of(caption: str) -> str:
    """Return the body region with the most words in a caption (ties: the first named), or ""."""
    text = caption.lower()
    starts = {name: [m.start() for m in p.finditer(text)] for name, p in _REGIONS.items()}
    ranked = [(-len(at), at[0], name) for name, at in starts.items() if at]
    return min(ranked)[2] if ranked else ""


_WORD = re.compile(r"no\.|[^\W_]+(?:[-'][^\W_]+)*|[^\w\s]")
_NEGATIONS = {"no", "without", "absence", "negative"}
_FILLER = re.compile("of|for|any|evidence|signs?|the|an?|obvious|significant|other")
_END = re.compile(
    "in|on|at|with|from|within|after|before|by|to|is|are|was|were|but|which|that|as|into|through|"
    "between|shows|showing|show|seen|noted|demonstrated|following|during"
)


def _findings(caption: str) -> tuple[set[str], set[str]]:
    """Return the words that a caption asserts, and those that it only rules out."""
    asserted: set[str] = set()
    negated: set[str] = set()
    reach = 0
    for word in _WORD.findall(caption.lower()):
        if word in _NEGATIONS:
            reach = 4  # words that are ruled out, unless a sign or an end comes first
        elif not word[0].isalpha() or _END.fullmatch(word):
            reach = 0
        elif not _FILLER.fullmatch(word):
            (negated if reach else asserted).add(word)
            reach = max(0, reach - 1)
    return asserted, negated - asserted


def _sides(caption: str) -> set[str]:
    sides = set(re.findall(r"left|right|bilateral", caption.lower()))
    return {"left", "right"} if "bilateral" in sides else sides


def _numbers(caption: str) -> set[str]:
    """Return a caption's numbers; those of T2, L5, 2D and 3D are parts of names."""
    numbers = re.findall(r"(?<![\w.,])\d+(?:[.,]\d+)?(?!\d*-?d\b)", caption.lower())
    return {number.replace(",", ".") for number in numbers}


def slips(references: Sequence[str], hypotheses: Sequence[str]) -> pd.Series:
    """Return the shares of captions with a slip that would mislead a clinician.

    Simple rules over words, for comparing systems; short captions have few slips. "modality": both
    captions name one, but not the same. "side": one says only left, the other only right.
    "negation": the hypothesis asserts a word that the reference only rules out ("no fracture").
    "number": it has a number that the reference does not have.
    """
    if len(references) != len(hypotheses) or not len(references):
        raise UserError(
            f"There are {len(hypotheses)} hypotheses for {len(references)} references: "
            "give one for each image, and at least one."
        )
    rows = []
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        modalities = {modality_of(reference), modality_of(hypothesis)}
        sides, other_sides = _sides(reference), _sides(hypothesis)
        modality = len(modalities) == 2 and "" not in modalities
        side = len(sides) == len(other_sides) == 1 and sides != other_sides
        negation = bool(_findings(reference)[1] & _findings(hypothesis)[0])
        number = bool(_numbers(hypothesis) - _numbers(reference))
        rows.append({"modality": modality, "side": side, "negation": negation, "number": number})
    return pd.DataFrame(rows).mean().rename("slips")
