"""Short word lists: swear words, and words that sound good or bad. English only, and told so in the guide.

Rule 1: the lists are short on purpose: each word is one that few would dispute; whoever needs more gives more.
"""

from __future__ import annotations

import re


def _of(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


PROFANITY = _of("""
    arse arsehole ass asshole bastard bitch bollocks bugger bullshit crap cunt damn dick dickhead fuck fucked
    fucker fucking goddamn motherfucker piss pissed prick pussy shit shitty slut twat wanker whore
""")
GOOD = _of("""
    amazing appreciate awesome beautiful best better brilliant clear correct delighted easy effective enjoy
    excellent fantastic fast favourite favorite fine friendly glad good great happy helpful impressive improve
    improved kind love loved loves nice perfect pleasant pleased positive recommend reliable right safe satisfied
    smooth solid succeed success successful superb thank thanks useful valuable welcome well win wonderful works
""")
BAD = _of("""
    angry annoying awful bad broken bug complaint confusing cruel damage dangerous disappointed disappointing
    disaster error fail failed failing fails failure fault frustrated frustrating hate hated horrible hurt
    incorrect lose lost mistake negative never nasty pain painful poor problem problems rude sad slow sorry stupid
    terrible ugly unacceptable unfortunately unhappy unreliable unsafe upset useless waste worse worst wrong
""")
_TURNING = _of("""
    not no never hardly without cannot can't don't doesn't didn't isn't wasn't won't aren't
""")
_REACH = 2
"""Words after a negation that it turns round."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return [word.replace("’", "'") for word in _WORD.findall(text.lower())]


def sentiment(text: str) -> float:
    """Return how a text sounds, from -1 (all bad) to 1 (all good); 0 where nothing tells."""
    score, signs, turned = 0, 0, 0
    for word in words(text):
        if word in _TURNING:
            turned = _REACH
            continue
        sign = (word in GOOD) - (word in BAD)
        if sign:
            score += -sign if turned else sign
            signs += 1
        turned = max(0, turned - 1)
    return score / signs if signs else 0.0
