"""Relations of the built-in encyclopedia: how the encyclopedia, the news and the questions put each of them.

{s} is the subject, {o} the object. The encyclopedia's wording (`entry`) differs from that of the `news`, and questions
borrow from both, so that word overlap alone finds the right passage only some of the time.
"""

from typing import NamedTuple


class Relation(NamedTuple):
    name: str
    object: str
    """Kind of the object: person, town, company, work, date or year."""
    entry: str
    news: str
    questions: tuple[str, str]


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "person": (
        Relation(
            "birthplace",
            "town",
            "{s} was born in {o}.",
            "the infant {s} first saw daylight at {o}, parish papers show.",
            ("in which town was {s} born?", "where did the infant {s} first see daylight?"),
        ),
        Relation(
            "birthday",
            "date",
            "{s} was born on {o}.",
            "friends of {s} light candles every year to recall {o}.",
            ("on which day was {s} born?", "for which date do friends of {s} light candles?"),
        ),
        Relation(
            "residence",
            "town",
            "{s} later settled in {o}.",
            "a cottage bought by {s} still stands at {o}.",
            ("in which town did {s} later settle?", "where does the cottage bought by {s} stand?"),
        ),
        Relation(
            "spouse",
            "person",
            "{s} married {o}.",
            "wedding bells rang for {s} and the beloved {o}.",
            ("who married {s}?", "with whom did wedding bells ring for {s}?"),
        ),
        Relation(
            "teacher",
            "person",
            "{s} studied under {o}.",
            "lessons that shaped {s} came from the strict tutor {o}.",
            ("under whom did {s} study?", "which strict tutor gave lessons to {s}?"),
        ),
        Relation(
            "employer",
            "company",
            "{s} worked as an engineer for {o}.",
            "wages of {s} were long paid by {o}.",
            ("for which company did {s} work as an engineer?", "who paid the wages of {s}?"),
        ),
        Relation(
            "debut",
            "work",
            "{s} made a stage debut in {o}.",
            "audiences first cheered {s} during a performance of {o}.",
            ("in which play did {s} make a stage debut?", "during which performance did audiences first cheer {s}?"),
        ),
        Relation(
            "medal",
            "year",
            "{s} received the medal of merit in {o}.",
            "pinned on the coat of {s}, the ribbon dates from {o}.",
            ("in which year did {s} receive the medal of merit?", "from when does the ribbon on the coat of {s} date?"),
        ),
        Relation(
            "rival",
            "person",
            "{s} had a long feud with {o}.",
            "insults flew whenever {s} ran into {o}.",
            ("with whom did {s} have a long feud?", "into whom did {s} run whenever insults flew?"),
        ),
        Relation(
            "burial",
            "town",
            "{s} is buried in {o}.",
            "mourners carried {s} to a grave at {o}.",
            ("in which town is {s} buried?", "where is the grave to which mourners carried {s}?"),
        ),
    ),
    "town": (
        Relation(
            "founder",
            "person",
            "{s} was founded by {o}.",
            "settlers were led to {s} by the pioneer {o}.",
            ("who founded {s}?", "which pioneer led settlers to {s}?"),
        ),
        Relation(
            "charter",
            "year",
            "{s} received its charter in {o}.",
            "the parchment that made {s} a borough is dated {o}.",
            ("in which year did {s} receive its charter?", "when is the parchment that made {s} a borough dated?"),
        ),
        Relation(
            "mayor",
            "person",
            "{s} elected {o} as mayor.",
            "ballots in {s} put {o} into the council chair.",
            ("whom did {s} elect as mayor?", "who was put into the council chair by ballots in {s}?"),
        ),
        Relation(
            "twin",
            "town",
            "{s} is twinned with {o}.",
            "exchange pupils from {s} spend summers at {o}.",
            ("with which town is {s} twinned?", "where do exchange pupils from {s} spend summers?"),
        ),
        Relation(
            "industry",
            "company",
            "{s} has {o} as its largest employer.",
            "half the households of {s} draw pay from {o}.",
            ("which company is the largest employer of {s}?", "from whom do households of {s} draw pay?"),
        ),
        Relation(
            "flood",
            "date",
            "{s} was flooded on {o}.",
            "water rose through the lanes of {s} during the night of {o}.",
            ("on which day was {s} flooded?", "during which night did water rise through the lanes of {s}?"),
        ),
        Relation(
            "railway",
            "town",
            "{s} has a railway line to {o}.",
            "trains leaving {s} terminate at {o}.",
            ("to which town does {s} have a railway line?", "where do trains leaving {s} terminate?"),
        ),
        Relation(
            "pageant",
            "work",
            "{s} stages {o} every autumn.",
            "crowds fill the square of {s} when actors perform {o}.",
            ("which play does {s} stage every autumn?", "what do actors perform in the square of {s}?"),
        ),
    ),
    "company": (
        Relation(
            "founder",
            "person",
            "{s} was established by {o}.",
            "borrowed money let {o} open the doors of {s}.",
            ("who established {s}?", "who opened the doors of {s} with borrowed money?"),
        ),
        Relation(
            "opening",
            "year",
            "{s} was established in {o}.",
            "ledgers of {s} begin in {o}.",
            ("in which year was {s} established?", "when do the ledgers of {s} begin?"),
        ),
        Relation(
            "seat",
            "town",
            "{s} has its head office in {o}.",
            "letters to the directors of {s} are posted to {o}.",
            ("in which town does {s} have its head office?", "where are letters to the directors of {s} posted?"),
        ),
        Relation(
            "chief",
            "person",
            "{s} is led by the president {o}.",
            "shareholders of {s} handed the reins to {o}.",
            ("which president leads {s}?", "to whom did shareholders of {s} hand the reins?"),
        ),
        Relation(
            "competitor",
            "company",
            "{s} competes with {o}.",
            "a price war set {s} against {o}.",
            ("with which company does {s} compete?", "against whom did a price war set {s}?"),
        ),
        Relation(
            "fire",
            "date",
            "{s} lost its factory in a fire on {o}.",
            "flames swallowed the plant of {s} before dawn of {o}.",
            (
                "on which day did {s} lose its factory in a fire?",
                "before which dawn did flames swallow the plant of {s}?",
            ),
        ),
        Relation(
            "sponsorship",
            "work",
            "{s} paid for the production of {o}.",
            "posters of {o} thank the generosity of {s}.",
            ("for the production of which play did {s} pay?", "which posters thank the generosity of {s}?"),
        ),
        Relation(
            "quarry",
            "town",
            "{s} owns a quarry near {o}.",
            "carts bring stone for {s} down from {o}.",
            ("near which town does {s} own a quarry?", "from where do carts bring stone for {s}?"),
        ),
    ),
    "work": (
        Relation(
            "author",
            "person",
            "{s} was written by {o}.",
            "ink stains on the drafts of {s} belong to {o}.",
            ("who wrote {s}?", "whose ink stains are on the drafts of {s}?"),
        ),
        Relation(
            "premiere",
            "date",
            "{s} had its premiere on {o}.",
            "the curtain first rose on {s} in the evening of {o}.",
            ("on which day did {s} have its premiere?", "in which evening did the curtain first rise on {s}?"),
        ),
        Relation(
            "setting",
            "town",
            "{s} is set in {o}.",
            "every scene of {s} unfolds among the rooftops of {o}.",
            ("in which town is {s} set?", "among which rooftops do the scenes of {s} unfold?"),
        ),
        Relation(
            "lead",
            "person",
            "{s} gave its leading role to {o}.",
            "reviewers of {s} praised the voice of {o}.",
            ("to whom did {s} give its leading role?", "whose voice did reviewers of {s} praise?"),
        ),
        Relation(
            "publisher",
            "company",
            "{s} was published by {o}.",
            "bound copies of {s} left the presses of {o}.",
            ("which company published {s}?", "which presses did bound copies of {s} leave?"),
        ),
        Relation(
            "sequel",
            "work",
            "{s} was followed by {o}.",
            "readers who finished {s} waited eagerly for {o}.",
            ("by which play was {s} followed?", "for what did readers who finished {s} wait eagerly?"),
        ),
        Relation(
            "ban",
            "year",
            "{s} was banned in {o}.",
            "censors locked {s} away during {o}.",
            ("in which year was {s} banned?", "when did censors lock {s} away?"),
        ),
        Relation(
            "dedication",
            "person",
            "{s} is dedicated to {o}.",
            "the opening page of {s} bows to {o}.",
            ("to whom is {s} dedicated?", "to whom does the opening page of {s} bow?"),
        ),
    ),
}
