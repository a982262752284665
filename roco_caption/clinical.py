"""What a caption says of modality, region, side, numbers and findings ruled out; slips in these.

Word lists, made by reading ROCO's captions. They find what a caption states, not what the image
shows, and say nothing ("") where a caption states nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from .files import UserError

# Patterns of lower-case text. Of several modalities the first named counts ("CT angiography" is a
# CT, "PET/CT" nuclear), so a longer name must stand before the shorter one it begins with.
_MODALITIES = {
    "ultrasound": r"\w*ultra-?\s?sono\w*|\w*ultra-?\s?soun\w*|sono\w+|\w*echo-?\s?cardio\w*|echo|"
    r"echogra\w*|échogra\w*|doppler|euss?|us|uss|ivus|tte|tee|b-mode|m-mode|"
    r"(?:apical|parasternal|subcostal|transesophageal|transthoracic)\b(?=.*\bview)",
    "nuclear": r"(?:18f-?\s?)?(?:fdg-?\s?)?(?:pet|spect)|positron\s\w+|single[- ]photon\s\w+|"
    r"\w*scintigra\w*|scintiscan|bone scan|isotope scan|fdg",
    "CT": r"\w*ct|cts|\w*computed\s\w*tomogra\w*|computeri[sz]ed\s(?:axial\s)?tomogra\w*|tomodens\w*|"
    r"computer\stomogra\w*|cat\sscan|cta|cect|ncct|hrct|mdct|tdm|scanner|ct-?scans?|cone[- ]beam|"
    r"angio-?\s?ct|angio-?\s?scanner|ct\w*gra\w*|\w*tomography",
    "MR": r"mri?s?|fmri|magnetic\s\w+|mra|mrv|mrcp|cmr|irm|t[12]w?i?|t[12]\*?-?\s?weighted|flair|"
    r"stir|dwi|gadolinium\w*|tractogra\w*|swi|spin[- ]echo|gradient[- ]echo",
    "mammography": r"mammogra\w*|tomosynthesis|galactogra\w*",
    "angiography": r"\w*angio-?gra\w*|angiogram\w*|arteriogra\w*|aortogra\w*|dsa|veno-?gra\w*|"
    r"ventriculogra\w*|phlebogra\w*|portogra\w*|digital subtraction|emboli[sz]ation|cavogra\w*",
    "fluoroscopy": r"\w*fluoroscop\w*|barium|esophagogra\w*|oesophagogra\w*|ercp|upper gi series|"
    r"\w*cholangio-?\w*gra\w*|urethrogra\w*|cystogra\w*|cysto-?urethrogra\w*|pyelogra\w*|vcug|"
    r"\w*salpingogra\w*|fistulogra\w*|myelogra\w*|enema|gastrografin|\w*urogra\w*|ivu|ivp|ivu|"
    r"arthrogra\w*|sialogra\w*|sinogra\w*|defecogra\w*|contrast swallow|enteroclysis|hsg",
    "radiograph": r"\w*radiogra\w*|\w*radiogram\w*|x-?\s?rays?|x-?\s?rayed|roentgen\w*|skiagra\w*|"
    r"ortho-?panto\w*|opg|opt|panoramic|cephalogra\w*|cephalometric|plain films?|periapical|"
    r"bitewing|iopa|kub|rx|cxr|skyline view|"
    r"(?:ap|pa|antero-?posterior|postero-?anterior|lateral|oblique)\s(?:view|film|projection)s?|"
    r"(?:chest|abdominal|plain|pelvic)\sfilms?",
    "endoscopy": r"\w*endoscop\w*|colonoscop\w*|bronchoscop\w*|laparoscop\w*|arthroscop\w*",
    "optical": r"oct|optical coherence\s\w+|fund[ui]s\w*|fluorescein|photograph\w*|microscop\w*|"
    r"histo\w*",
}
