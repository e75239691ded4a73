"""The book's own stories: a small grammar that tells little tales, one for every number.

They are the corpus of a reader without a network. The words are those of a small child, so that a
small model can learn them; the grammar is rich enough that it cannot simply learn them by heart.

The grammar is written as pages of text, in blocks with a blank line between:

    thing / spot: ball / under the bed | kite / in a tree

is a *table*. A story draws one of its rows and keeps those words to the end, so what was lost is
also what is found. A block of items with dashes

    - {Hero} [looked|searched] everywhere for {his} {thing}.
    - "Where is my {thing}?" asked {hero}.

is a *beat*: the ways to tell one paragraph, of which a story uses one. In both, a {slot} stands for
a word of the story, a capital {Slot} for the same at the start of a sentence, and [this|that] for a
choice that is made on the spot.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lib.errors import BookError

VERSION = 1  # goes up when the text of any story changes: data made from older stories is stale

T = TypeVar("T")
Table = tuple[dict[str, str], ...]  # rows of slot -> word
Beat = tuple[str, ...]  # the templates of one paragraph


# How a page is read -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """A part of the grammar: the tables to draw from, then the beats to tell in their order."""

    tables: tuple[Table, ...]
    beats: tuple[Beat, ...]


def page(text: str) -> Page:
    """Reads a page. A row with too few or too many columns raises ValueError, at import."""
    blocks = text.strip().split("\n\n")
    beats = tuple(beat(block) for block in blocks if block.startswith("- "))
    tables = tuple(table(block) for block in blocks if not block.startswith("- "))
    return Page(tables, beats)


def beat(block: str) -> Beat:
    """The items of a list with dashes, each on one line."""
    return tuple(" ".join(item.split()) for item in block.removeprefix("- ").split("\n- "))


def table(block: str) -> Table:
    """The rows of "name / name: word / word | word / word"."""
    head, _, body = " ".join(block.split()).partition(": ")
    names = head.split(" / ")
    return tuple(dict(zip(names, row.split(" / "), strict=True)) for row in options(body))


def options(text: str) -> tuple[str, ...]:
    """The alternatives of "one | another | a third"."""
    return tuple(" ".join(text.split()).split(" | "))


# Who lives in the stories -------------------------------------------------------------------------
# Two habits of all word lists keep the grammar simple. No name ends in "s", so 's is always right.
# No word that can follow "a" sounds unlike its first letter (hour, unicorn): see articles().


PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}


@dataclass(frozen=True)
class Folk:
    """One of the peoples of the stories, with all that is its own. Names and kinds are by pronoun:
    hero and friend never share one, so that "he" and "she" leave no doubt who is meant."""

    names: dict[str, tuple[str, ...]]
    kinds: dict[str, tuple[str, ...]]
    page: Page


CHILDREN = Folk(
    names={
        "he": options("""Omar | Leo | Hugo | Nico | Kofi | Theo | Ravi | Finn | Milo | Otto | Sami
            | Luca | Emil | Tariq | Ben | Kenji | Pablo | Ivan | Noah | Adam | Felix | Anton"""),
        "she": options("""Ana | Mina | Rosa | Nora | Yuki | Zara | Lena | Ada | Maya | Ivy | Priya
            | Elsa | Amina | Greta | Sofia | Lucy | Marta | Nina | Hana | Olga | Ruby | Clara"""),
    },
    kinds={"he": ("boy",), "she": ("girl",)},
    page=page("""
hands: hands

elder / elder_he: Mom / she | Dad / he | Grandma / she | Grandpa / he | Aunt May / she
    | Uncle Joe / he | Papa / he | Mama / she

home: in a small house by the sea | in a yellow house on a hill | at the edge of a green village
    | above a busy bakery | in a tall house near the park | on a farm with a red barn
    | beside an old mill | on a quiet street | in a stone house by the river

friend_full: {friend} from next door | {friend} from down the road | {friend} from the corner house
"""),
)

BEASTS = options("""rabbit | mouse | fox | bear | cat | dog | squirrel | hedgehog | mole | badger
    | raccoon | hamster | panda | lion | tiger | chipmunk""")

ANIMALS = Folk(
    names={
        "he": options("""Bramble | Acorn | Rusty | Biscuit | Pepper | Basil | Pip | Bruno | Toby
            | Oscar | Barley | Fidget | Monty | Hopper | Chester | Copper | Tuck | Dusty"""),
        "she": options("""Hazel | Clover | Willow | Poppy | Daisy | Maple | Fern | Luna | Tilly
            | Olive | Rosie | Peach | Honey | Misty | Nutmeg | Berry | Sunny | Pippa"""),
    },
    kinds={"he": BEASTS, "she": BEASTS},
    page=page("""
hands: paws

elder / elder_he: Mama {Kind} / she | Papa {Kind} / he | Granny {Kind} / she | Grandpa {Kind} / he

home: in a hollow tree | under an old oak | in a cozy den near a stream | by a quiet lake
    | at the edge of a deep forest | in a warm hole below a hill | behind a mossy wall
    | in a round house under the roots of a pine | where the meadow meets the woods

friend_full: {friend} the {friend_kind}
"""),
)

PLAYTHINGS = options("""toy bear | rag doll | tin robot | sock monkey | wooden soldier | toy knight
    | cloth rabbit | toy lion | paper clown | wooden sailor | toy pirate""")

TOYS = Folk(
    names={
        "he": options("""Bolt | Ziggy | Tock | Tinker | Domino | Jingle | Pom | Buddy | Marble
            | Rocket | Bingo | Wink | Rattle | Cookie"""),
        "she": options("""Dot | Velvet | Lulu | Bella | Mimi | Pearl | Dolly | Coco | Twinkle
            | Silky | Lace | Fifi | Bow | Tansy"""),
    },
    kinds={"he": PLAYTHINGS, "she": PLAYTHINGS},
    page=page("""
hands: hands

elder / elder_he: Granny Patch / she | Captain Tin / he | Auntie Button / she | Uncle Cork / he
    | Grandpa Clock / he | Mama Ribbon / she

home: in a town made of blocks | in a doll house with a green door | in a village of shoe boxes
    | in a toy castle in the garden | in a paper house under a pear tree
    | in a big box with a painted door | in a tiny town behind the bookcase

friend_full: {friend} the {friend_kind}
"""),
)

FOLKS = (CHILDREN, ANIMALS, TOYS)


# What every story has: a world, a first and a last paragraph --------------------------------------


FRAME = page("""
trait: little | curious | cheerful | quiet | playful | gentle | clever | busy | merry | dreamy
    | friendly | lively | small | young | jolly | sweet | funny | happy

color: red | blue | green | yellow | orange | purple | white | brown | pink | gray

wear: coat | vest | apron | cap | belt | bow tie | pair of boots | cape

hobby: run down the hill | climb over rocks | jump in puddles | dance in the kitchen | march about
    | hop on one foot | roll in the grass | splash in the stream | chase the wind | swing on the gate
    | skip from stone to stone | play hide and seek | spin until the world went round

quiet: look at the clouds | draw pictures of the moon | count the stars | sing little songs
    | listen to old stories | build towers of stones | collect shiny pebbles | watch the ants
    | make up silly words | look for lucky clover | talk to the birds | read about the sea

food: warm bread with honey | apple pie | pancakes | carrot soup | bread and jam | nut cake | noodles
    | rice pudding | pea soup | plum cake | corn soup | cheese and pears | hot porridge | potato pie

helper_kind / helper_he: owl / she | turtle / he | toad / he | crow / she | goat / he | goose / she
    | donkey / he | duck / she | baker / he | gardener / she | farmer / he | painter / she
    | sailor / he | miller / he | hen / she | teacher / she

helper: the {helper_kind}

a_helper: a [n old|kind|wise|tired|tall|round|friendly|gray|small] {helper_kind}

season: spring | summer | autumn | winter

- Once upon a time there was a {trait} {kind} [named|called] {hero}. {He} lived {home} with {elder},
  and {likes}.
- {Hero} was a {trait} {kind} who lived {home}. {Likes}.
- {Home} lived a {trait} {kind} [by the name of|named|called] {hero}. {Likes}.
- There once was a {kind} [named|called] {hero}. {He} was {trait}, and {likes}.
- [Long ago|Not long ago|Some time ago|Many years ago], a {trait} {kind} lived {home}. {His} name was
  {hero}, and {likes}.
- {Hero} and {elder} lived {home}. {Hero} was a {trait} {kind}, and {likes}.
- [Here is|This is] [a story about|the story of] {hero}, a {trait} {kind} who lived {home}. {Likes}.
- Have you heard of {hero}? {He} was a {trait} {kind}, and {he} lived {home} with {elder}. {Likes}.

- That [night|evening], {hero} and {elder} had {food} for supper. "{Moral}," said {elder}, and {hero}
  [nodded|agreed|knew that it was true].
- {Hero} [never forgot|always remembered] that {season}. {He} had learned that {moral}.
- [Before bed|At bedtime|Under {his} warm blanket], {hero} thought about it all. "{Moral}," {he}
  [whispered|said to {him}self|told the moon], and [soon|then] {he} fell asleep.
- And [so|that is how] {hero} [learned|found out|came to know] that {moral}.[ The end.|]
- From that day on, {hero} [told everyone|liked to say] that {moral}. [And it is true|And {elder}
  agreed|And {he} was right].
- {Elder} gave {hero} a [big|long|warm] hug. "[You see|Remember], {dear}," said {elder}, "{moral}."
- {Hero} drew a picture of that day and hung it [over {his} bed|on the wall|by the window]. Under it
  {he} wrote in [big|{color}] letters: {moral}.
- [Later|In the evening], {hero} and {elder} sat [by the fire|at the window|on the steps] and ate
  {food}. It had been a [good|long|fine] day, and {he} would never forget that {moral}.
- "[What did you learn|What do you know now], {dear}?" asked {elder} [at supper|that night]. {Hero}
  [thought for a while|did not have to think long]. "That {moral}," {he} said.
""")

SEASONS = {
    "spring": page("""
weather: mild | fresh | bright | breezy | soft

sky: the birds sang in every tree | the first flowers were out | the grass was wet with dew
    | small white clouds sailed by | the brook was full and loud
""").tables,
    "summer": page("""
weather: hot | sunny | warm | bright | clear

sky: the sun was high in the sky | the bees hummed in the clover | there was not a cloud to be seen
    | the air smelled of hay | the cherries were ripe
""").tables,
    "autumn": page("""
weather: windy | cool | crisp | gray | golden

sky: red leaves blew along the road | the geese flew south | the apples were ripe
    | the wind sang in the chimney | the fields were yellow
""").tables,
    "winter": page("""
weather: cold | snowy | frosty | icy | white

sky: snow lay on all the roofs | ice hung from the trees | the pond was frozen
    | thick flakes fell from the sky | the whole land was still and white
""").tables,
}

# Small change: the one kind of slot that is picked anew wherever it stands.
PHRASES = {
    "one_day": options("""One {weather} {season} [morning|day|afternoon]
        | One {weather} [morning|day|afternoon] in {season} | Early one {season} morning
        | On a {weather} day in {season} | On a {weather} {season} morning"""),
    "likes": options("""{he} [liked|loved] to {hobby} and to {quiet} | {he} could {hobby} all day long
        | {his} favorite food was {food} | nobody could {hobby} like {him}
        | {he} always wore a {color} {wear} | {he} knew every [path|tree|stone] for miles around
        | [most days|every Sunday] {he} would {quiet} | {he} liked {food} [best|more than anything]
        | what {he} loved most was to {quiet} | {he} wore a {color} {wear} and liked to {hobby}"""),
    "glad": options("""clapped {his} {hands} | jumped for joy | laughed out loud | felt warm inside
        | danced in a circle | smiled from ear to ear | gave a happy shout | did a little dance
        | could not stop smiling | was as happy as could be"""),
    "sad": options("""had tears in {his} eyes | sat down and sighed | hung {his} head | wanted to cry
        | felt very small | let out a long sigh | bit {his} lip | felt cold all over
        | looked at the ground | did not know what to do"""),
    "dear": options("{hero} | my dear | little one | dear {hero} | my little {kind}"),
    "path": options("""[past the mill|past the well|past the school], [over the bridge|over the
        stream|over the hill] and [through the meadow|along the wall|across the field]
        | [down the lane|down the road] and [through the gate|under the tall trees|round the pond]
        | [along the river|across the square|up the steps] and [behind the church|past the shop]"""),
}
