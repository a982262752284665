"""Reads modality, region, side, numbers, negations from captions by word lists made from ROCO's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from functools import lru_cache

import pandas as pd
import regex as re

# Abbreviations that are words as well ("us", "pet", "Mr. Smith", "Oct. 3"): they count in capitals,
# or beside a word that images are described with.
_AMBIGUOUS = re.compile(r"\b(?:us|pet|mr|tee|oct|stir|swi|opt|lad)\b", re.I)
_BEFORE = re.compile(
    r"\b(?:ct|mri?|fdg|imag\w+|doppler|t[12]|weighted|axial|sagittal|coronal|contrast|endo\w+|abdom\w+"
    r"|pelvic|cardiac|brain|chest|neck|knee|thyroid|breast|renal|by|on)[\s/-]$", re.I
)  # fmt: skip
_AFTER = re.compile(
    r"[\s/-](?:ct|mri?|imag\w+|scans?|exam\w*|stud(?:y|ies)|guid\w+|angio\w*|weighted|of|shows?|showing"
    r"|reveal\w+|demonstrat\w+|artery)\b", re.I
)  # fmt: skip
# what looks like CT, MR or ultrasound and is not: a 3 T scanner, echo time, the vertebra T1
_OTHER = re.compile(
    r"(?<=\dt |tesla |sector |camera )scanner|\becho(?=[\s-](?:planar|time|train))"
    r"|\bt[12](?=[\s-](?:vertebra|level|bod|spinous|rib\b))", re.I
)  # fmt: skip


def unambiguous(captions: str | Sequence[str]) -> str:
    """Return captions in lower case, without words that only look like abbreviations."""
    caption = captions if isinstance(captions, str) else " \n".join(captions)
    shouted = caption.isupper()

    def kept(match: re.Match[str]) -> str:
        sure = match[0].isupper() and not shouted
        sure = sure or _BEFORE.search(caption[: match.start()]) is not None
        return match[0] if sure or _AFTER.match(caption, match.end()) else "-"

    return _OTHER.sub("-", _AMBIGUOUS.sub(kept, caption)).lower()


def word_patterns(text: str) -> dict[str, re.Pattern[str]]:
    """Return the pattern of each label's terms, as whole words.

    "*" matches any letters; a space matches a space, a hyphen, or nothing.
    """
    patterns = {}
    for entry in re.split(r"\n {4}(?! )", text)[1:]:
        label, terms = " ".join(entry.split()).split(": ")
        spelled = terms.replace(", ", "|").replace(" ", r"[\s‐-]?").replace("*", r"\w*")
        patterns[label] = re.compile(rf"(?<!\w)(?:{spelled})(?!\w)")
    return patterns


MODALITIES = word_patterns("""
    CT: ct, cts, cta, cect, ncct, hrct, cbct, tdm, scanner, *computed * tomogra*, computeri*
        tomogra*, computer tomogra*, cat scan, cone beam, ct angio*, tomogram, tomography,
        tomodensitom*, mdct, msct
    MR: mr, mri, fmri, magnetic resonance, mra, mrv, mrcp, cmr, irm, t1 weight*, t2 weight*, t1
        signal, t2 signal, t1w*, t2w*, t1, t2, flair, stir, dwi, swi, gadolinium*, tractogra*, spin
        echo, gradient echo, diffusion weighted
    ultrasound: *ultraso*, endoscopic ultraso*, sono*, *echocardio*, echo, echogra*, échogra*,
        doppler, us, eus, uss, usg, ivus, tte, tee, b mode, m mode, duplex, *echoic, parasternal,
        subcostal, apical * chamber, four chamber view, transesoph*, transthorac*
    nuclear: pet, fdg, 18f, spect, positron emission, single photon, *scintigra*, bone scan
    mammography: mammogra*, tomosynthesis
    angiography: *angiogra*, arteriogra*, aortogra*, dsa, digital subtraction, *venogra*,
        ventriculogra*, phlebogra*, portogra*, cavogra*, emboli*ation
    fluoroscopy: *fluoroscop*, barium, *esophagogra*, ercp, *cholangio*gra*, gastrografin,
        *urethrogra*, *cystogra*, *pyelogra*, *urogra*, ivu, ivp, vcug, *salpingogra*, hsg,
        fistulogra*, myelogra*, arthrogra*, sialogra*, enema, contrast swallow, pyelo*gra*
    radiograph: *radiogra*, x ray, x rays, xr, xray*, roentgen*, cxr, panoramic, opg, opt,
        orthopanto*, pantomogra*, *cephalogra*, cephalometric, periapical, bitewing, iopa, kub,
        plain film, chest film, ap view, pa view, anteroposterior view, lateral view
    optical: oct, optical coherence, fundus, photogra*, *microscop*, *endoscop*, *histolog*,
        colonoscop*, laparoscop*, intraoperative view
""")

_MODALITY = re.compile("|".join(f"(?P<{name}>{p.pattern})" for name, p in MODALITIES.items()))

REGIONS = word_patterns("""
    head: brain, head, *cranial, *cranium, skull, *cereb*, frontal lobe, temporal, parietal,
        occipital, *ventricles, lateral ventricle, hippocamp*, pituitary, thalam*, pons, basal
        ganglia, white matter, sella*, *orbit*, eye, ocular, retina*, sinus*, nasal, ear, petrous,
        carotid artery, middle cerebral, basilar, corpus callosum, crani*, mening*, facial
    teeth and jaws: *mandib*, maxill*, tooth, teeth, molar*, premolar*, incisor*, canine*, dental,
        root, roots, periapical, panoramic, *odontia, endodont*, orthodont*, periodont*, edentulous,
        odontog*, odontom*, alveolar bone, jaw, tmj, temporomandibular, implant, cephalogra*, opg,
        orthopanto*, condyle, apical
    neck: neck, vertebral arter*, *thyroid*, cervical lymph, laryn*, pharyn*, *pharyngeal, parotid,
        submandibular, trachea*, carotid, jugular
    spine: spine, spinal, *vertebra*, lumbar, sacral, *lumbosacral, cervical, thoracolumbar, disc,
        disk, l1, l2, l3, l4, l5, s1, t12, c1, c2, c5, c6, cord, odontoid, scolio*, sacrum
    heart: heart, *cardi*, coronary, atrial, atrium, ventricular, ventricle, aortic valve, mitral,
        tricuspid, *septal, lad, rca, lvot, left main, circumflex
    chest: chest, lung*, *thora*, pulmon*, *pleura*, mediastin*, rib, ribs, hilar, bronch*, lower
        lobe, upper lobe, lobe, *pneumo*, esophag*, oesophag*, aortic arch, diaphragm*, sternum, cxr
    breast: breast, breasts, mammogra*, axilla*
    abdomen: abdom*, *abdominal, liver, *hepat*, renal, kidney*, spleen, splenic, pancrea*,
        gallbladder, biliary, bile, *bowel, colon, colonic, stomach, gastric, duoden*, jejun*,
        ileum, ileal, ileo*, appendi*, mesenter*, *periton*, adrenal*, celiac, cholangio*, mrcp,
        ureter*, portal vein, ct kub, intestin*, cecum, caecum, sigmoid
    pelvis: pelvi*, uter*, *ovar*, bladder, prostat*, rect*, adnex*, endometri*, vagin*, testic*,
        testis, scrot*, hysterosalp*, fet*, gestation*, iliac, pubic, cervix, penile, *urethr*
    arm: hand, wrist, forearm, elbow, shoulder, humer*, radius, ulna*, finger*, thumb, scaph*,
        carpal, metacarp*, clavic*, scapul*, glenoid, rotator, supraspina*, phalan*, arm, radial,
        brachial
    leg: hip, hips, femur, femor*, knee*, tibia*, fibula*, ankle, foot, feet, calcan*, talus, talar,
        metatars*, patell*, thigh, leg, legs, acetab*, menisc*, cruciate, poplit*, toe, achilles,
        calf
""")


def modality_of(caption: str | Sequence[str]) -> str:
    """Return the imaging modality that an image's captions name first, or ""."""
    match = _MODALITY.search(unambiguous(caption))
    return str(match.lastgroup) if match else ""


def region_of(caption: str | Sequence[str]) -> str:
    """Return the body region with the most words in captions (ties: the first named), or ""."""
    text = unambiguous(caption)
    starts = {name: [m.start() for m in p.finditer(text)] for name, p in REGIONS.items()}
    ranked = [(-len(at), at[0], name) for name, at in starts.items() if at]
    return min(ranked)[2] if ranked else ""


_WORD = re.compile(r"no\.|[^\W_]+(?:[-'][^\W_]+)*|[^\w\s]")
_NEGATIONS = {"no", "without", "absence", "negative"}
_FILLER = re.compile("of|for|any|evidence|signs?|the|an?|obvious|significant|other")
_END = re.compile(
    "in|on|at|with|from|within|after|before|by|to|is|are|was|were|but|which|that|as|into|through|"
    "between|shows|showing|show|seen|noted|demonstrated|following|during"
)


@lru_cache(1 << 15)  # several systems share the references
def _findings(caption: str) -> tuple[set[str], set[str]]:
    """Return the words that a caption asserts, and those that it only rules out."""
    asserted, negated, reach = set[str](), set[str](), 0
    for word in _WORD.findall(caption.lower()):
        if word in _NEGATIONS:
            reach = 4  # words that are ruled out, unless a sign or an end comes first
        elif not word[0].isalpha() or _END.fullmatch(word):
            reach = 0
        elif not _FILLER.fullmatch(word):
            (negated if reach else asserted).add(word)
            reach = max(0, reach - 1)
    return asserted, negated - asserted


_ENGLISH = {"the", "with", "and", "shows", "showing", "left", "right", "chest", "brain"}


def are_english(captions: Iterable[str]) -> bool:
    """Return whether more than a tenth of the captions have a frequent English word."""
    english = [not _ENGLISH.isdisjoint(caption.lower().split()) for caption in captions]
    return 10 * sum(english) > len(english)


_SIDE = re.compile(r"\b(left|right|bilateral)(?:[ -]?sided?|wards?|most|ly|ity)?\b", re.I)


def _sides(caption: str) -> set[str]:
    sides = {side.lower() for side in _SIDE.findall(caption)}
    return {"left", "right"} if "bilateral" in sides else sides


# not those of T2 and L5; with a minus, but without the dash of a range
_NUMBER = re.compile(
    r"(?:(?<![\w.,])|(?<=\d(?:[cm]m)?x))([-–−]?)"
    r"((?:(?<![\d.,])\.)?\d+(?:[.,]\d+)*)(?!\d*-?d\b)", re.I
)  # fmt: skip


def _numbers(caption: str) -> set[Decimal | str]:
    """Return a caption's numbers, "1,000" and "1000.0" alike; those of 2D and 3D are names."""
    numbers = set()
    for sign, digits in _NUMBER.findall(caption):
        thousands = re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?", digits)
        text = ("-" if sign else "") + digits.replace(",", "" if thousands else ".")
        numbers.add(Decimal(text) if text.count(".") < 2 else text)
    return numbers


def slips(references: Sequence[str | Sequence[str]], hypotheses: Sequence[str]) -> pd.Series:
    """Return the shares of captions with a slip that would mislead a clinician.

    "modality": both captions name one, but not the same. "side": one says only left, the other only
    right. "negation": the hypothesis asserts a word that the reference only rules out. "number": it
    has a number that no reference has. One reference that supports the hypothesis is enough.
    All but "number" are NaN unless `are_english`, "modality" and "side" also if no reference names
    one.
    """
    rows = [_slips_of(*pair) for pair in zip(references, hypotheses, strict=True)]
    shares = pd.DataFrame(rows).mean().rename("slips")
    texts = [text for each in references for text in ([each] if isinstance(each, str) else each)]
    shares["modality"] = shares["modality"] if any(map(modality_of, texts)) else math.nan
    shares["side"] = shares["side"] if any(map(_sides, texts)) else math.nan
    if not are_english(texts):
        shares[["modality", "side", "negation"]] = math.nan
    return shares


def _slips_of(references: str | Sequence[str], hypothesis: str) -> dict[str, bool]:
    texts = [references] if isinstance(references, str) else references
    named, modality = {modality_of(text) for text in texts} - {""}, modality_of(hypothesis)
    sides, side = set().union(*map(_sides, texts)), _sides(hypothesis)
    found = [_findings(text) for text in texts]
    asserted, negated = (set().union(*words) for words in zip(*found, strict=True))
    return {
        "modality": bool(named) and modality not in named | {""},
        "side": len(sides) == len(side) == 1 and sides != side,
        "negation": bool((negated - asserted) & _findings(hypothesis)[0]),
        "number": bool(_numbers(hypothesis) - set().union(*map(_numbers, texts))),
    }
