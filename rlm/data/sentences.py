"""Sentence boundaries by punctuation and what follows it."""

import re

# After . ! or ? (closing quotes and brackets included), white space, before a capital, a digit or an opening mark.
_END = re.compile(r"""(?<=[.!?])["'”’)\]]*\s+(?=["'“‘(\[]*[A-Z0-9À-Þ])""")
_ABBREVIATION = re.compile(
    r"""(?:^|[\s("'“‘\[])(?:[A-Z]|[A-Za-z](?:\.[A-Za-z])+|Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Col|Capt|Lt|Sgt|Rev|Hon|Gov|Sen|Rep"""
    r"""|Mt|Ft|No|Vol|vs|v|cf|ca|c|fl|etc|approx|Inc|Ltd|Co|Corp|Bros|pp|p|Op|Jan|Feb|Mar|Apr|Aug|Sept|Oct|Nov|Dec)\.$"""
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, in characters, without the white space between them.

    Initials (`J. Smith`) and common abbreviations (`St. Paul`) end no sentence.
    """
    spans, start = [], len(text) - len(text.lstrip())
    for gap in _END.finditer(text):
        before = text[start : gap.start()]
        if not _ABBREVIATION.search(before):
            spans.append((start, start + len((before + gap.group()).rstrip())))
            start = gap.end()
    if start < len(text.rstrip()):
        spans.append((start, len(text.rstrip())))
    return spans
