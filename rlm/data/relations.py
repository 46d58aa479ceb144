"""Relations of the built-in encyclopedia: how the encyclopedia, the news and the questions put each of them.

{s} is the subject, {o} the object. The encyclopedia's wording (`entry`) differs from that of the `news`, and questions
take theirs from either, so that word overlap alone finds the right passage only some of the time.
"""

from typing import NamedTuple


class Relation(NamedTuple):
    name: str
    object: str
    """Kind of the object: person, town, company, work, date or year."""
    entry: str
    news: str
    questions: tuple[str, str]
    """In the words of the encyclopedia, and of the news."""


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "person": (
        Relation(
            "birthplace",
            "town",
            "{s} was born in {o}.",
            "{s} first saw daylight at {o}.",
            ("in which town was {s} born?", "where did {s} first see daylight?"),
        ),
        Relation(
            "birthday",
            "date",
            "{s} was born on {o}.",
            "the cradle of {s} was filled on {o}.",
            ("on which day was {s} born?", "on which day was the cradle of {s} filled?"),
        ),
        Relation(
            "residence",
            "town",
            "{s} later settled in {o}.",
            "{s} bought a cottage at {o}.",
            ("in which town did {s} later settle?", "where did {s} buy a cottage?"),
        ),
        Relation("spouse", "person", "{s} married {o}.", "{s} wed {o}.", ("who married {s}?", "whom did {s} wed?")),
        Relation(
            "teacher",
            "person",
            "{s} studied under {o}.",
            "{s} took lessons from {o}.",
            ("under whom did {s} study?", "from whom did {s} take lessons?"),
        ),
        Relation(
            "employer",
            "company",
            "{s} worked as an engineer for {o}.",
            "{s} drew wages from {o}.",
            ("for which company did {s} work as an engineer?", "from whom did {s} draw wages?"),
        ),
        Relation(
            "debut",
            "work",
            "{s} made a stage debut in {o}.",
            "{s} first trod the boards in {o}.",
            ("in which play did {s} make a stage debut?", "in what did {s} first tread the boards?"),
        ),
        Relation(
            "medal",
            "year",
            "{s} received the medal of merit in {o}.",
            "{s} wore a ribbon from {o}.",
            ("in which year did {s} receive the medal of merit?", "since when did {s} wear a ribbon?"),
        ),
        Relation(
            "rival",
            "person",
            "{s} had a long feud with {o}.",
            "{s} quarrelled with {o}.",
            ("with whom did {s} have a long feud?", "with whom did {s} quarrel?"),
        ),
        Relation(
            "burial",
            "town",
            "{s} is buried in {o}.",
            "{s} rests at {o}.",
            ("in which town is {s} buried?", "where does {s} rest?"),
        ),
    ),
    "town": (
        Relation(
            "founder",
            "person",
            "{s} was founded by {o}.",
            "settlers reached {s} behind {o}.",
            ("who founded {s}?", "behind whom did settlers reach {s}?"),
        ),
        Relation(
            "charter",
            "year",
            "{s} received its charter in {o}.",
            "{s} became a borough in {o}.",
            ("in which year did {s} receive its charter?", "when did {s} become a borough?"),
        ),
        Relation(
            "mayor",
            "person",
            "{s} elected {o} as mayor.",
            "{s} put {o} in the council chair.",
            ("whom did {s} elect as mayor?", "whom did {s} put in the council chair?"),
        ),
        Relation(
            "twin",
            "town",
            "{s} is twinned with {o}.",
            "{s} sends exchange pupils to {o}.",
            ("with which town is {s} twinned?", "where does {s} send exchange pupils?"),
        ),
        Relation(
            "industry",
            "company",
            "{s} has {o} as its largest employer.",
            "{s} lives on wages from {o}.",
            ("which company is the largest employer of {s}?", "on whose wages does {s} live?"),
        ),
        Relation(
            "flood",
            "date",
            "{s} was flooded on {o}.",
            "water rose through {s} on {o}.",
            ("on which day was {s} flooded?", "when did water rise through {s}?"),
        ),
        Relation(
            "railway",
            "town",
            "{s} has a railway line to {o}.",
            "trains run from {s} to {o}.",
            ("to which town does {s} have a railway line?", "where do trains run from {s}?"),
        ),
        Relation(
            "pageant",
            "work",
            "{s} stages {o} every autumn.",
            "{s} performs {o} in its square.",
            ("which play does {s} stage every autumn?", "what does {s} perform in its square?"),
        ),
    ),
    "company": (
        Relation(
            "founder",
            "person",
            "{s} was established by {o}.",
            "{o} opened the doors of {s}.",
            ("who established {s}?", "who opened the doors of {s}?"),
        ),
        Relation(
            "opening",
            "year",
            "{s} was established in {o}.",
            "ledgers of {s} begin in {o}.",
            ("in which year was {s} established?", "when do ledgers of {s} begin?"),
        ),
        Relation(
            "seat",
            "town",
            "{s} has its head office in {o}.",
            "directors of {s} sit at {o}.",
            ("in which town does {s} have its head office?", "where do directors of {s} sit?"),
        ),
        Relation(
            "chief",
            "person",
            "{s} is led by the president {o}.",
            "{o} holds the reins of {s}.",
            ("which president leads {s}?", "who holds the reins of {s}?"),
        ),
        Relation(
            "competitor",
            "company",
            "{s} competes with {o}.",
            "{s} fights a price war against {o}.",
            ("with which company does {s} compete?", "against whom does {s} fight a price war?"),
        ),
        Relation(
            "fire",
            "date",
            "{s} lost its factory in a fire on {o}.",
            "flames swallowed the plant of {s} on {o}.",
            ("on which day did {s} lose its factory in a fire?", "when did flames swallow the plant of {s}?"),
        ),
        Relation(
            "sponsorship",
            "work",
            "{s} paid for the production of {o}.",
            "{s} backed {o}.",
            ("for the production of which play did {s} pay?", "what did {s} back?"),
        ),
        Relation(
            "quarry",
            "town",
            "{s} owns a quarry near {o}.",
            "{s} digs stone at {o}.",
            ("near which town does {s} own a quarry?", "where does {s} dig stone?"),
        ),
    ),
    "work": (
        Relation(
            "author", "person", "{s} was written by {o}.", "{o} penned {s}.", ("who wrote {s}?", "who penned {s}?")
        ),
        Relation(
            "premiere",
            "date",
            "{s} had its premiere on {o}.",
            "the curtain first rose over {s} on {o}.",
            ("on which day did {s} have its premiere?", "when did the curtain first rise over {s}?"),
        ),
        Relation(
            "setting",
            "town",
            "{s} is set in {o}.",
            "{s} unfolds at {o}.",
            ("in which town is {s} set?", "where does {s} unfold?"),
        ),
        Relation(
            "lead",
            "person",
            "{s} gave its leading role to {o}.",
            "{o} starred in {s}.",
            ("to whom did {s} give its leading role?", "who starred in {s}?"),
        ),
        Relation(
            "publisher",
            "company",
            "{s} was published by {o}.",
            "{o} printed {s}.",
            ("which company published {s}?", "who printed {s}?"),
        ),
        Relation(
            "sequel",
            "work",
            "{s} was followed by {o}.",
            "{s} continues in {o}.",
            ("by which play was {s} followed?", "in what does {s} continue?"),
        ),
        Relation(
            "ban",
            "year",
            "{s} was banned in {o}.",
            "censors locked {s} away in {o}.",
            ("in which year was {s} banned?", "when did censors lock {s} away?"),
        ),
        Relation(
            "dedication",
            "person",
            "{s} is dedicated to {o}.",
            "{s} opens with thanks to {o}.",
            ("to whom is {s} dedicated?", "to whom does {s} open with thanks?"),
        ),
    ),
}
