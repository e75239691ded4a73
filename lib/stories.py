"""The book's own stories: a grammar that tells little tales, one for every number.

They are the corpus of a reader without a network. Their words are those of a small child, so that a
small model can learn them, and the grammar is rich enough that it cannot just know them by heart.

The grammar is written down as pages of text, in blocks with a blank line between. In each block an
entry begins at the margin and its further lines are indented. The first block has the tables:

    thing / spot: ball / under the bed | [kite|balloon] / in a tree

A story draws one row of every table and keeps its words to the end, so that what was lost is also
what is found. All other blocks are beats, the ways to tell one paragraph; a story uses one of each:

    - {Hero} [looked|searched] everywhere for {his} {thing}.
    - "Where is my {thing}?" asked {hero}.

A {slot} stands for a word of the story, a capital {Slot} for the same at the start of a sentence,
and [this|that] for a choice made on the spot. The code that tells the stories is at the end.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Iterator, Sequence, TypeVar

from lib.errors import BookError

VERSION = 1  # goes up when the text of any story changes: data made of older stories is then stale

T = TypeVar("T")
Table = tuple[dict[str, str], ...]  # rows of slot -> word
Beat = tuple[str, ...]  # the templates for one paragraph


# ---- How a page is read. ----


@dataclass(frozen=True)
class Page:
    """A part of the grammar: the tables to draw from, then the beats in the order they are told."""

    tables: tuple[Table, ...]
    beats: tuple[Beat, ...]


def page(text: str) -> Page:
    """Read a page. A row with too few or too many columns is a ValueError, already at import."""
    tables, *beats = (entries(block) for block in text.strip().split("\n\n"))
    return Page(tuple(map(table, tables)), tuple(map(beat, beats)))


def entries(block: str) -> tuple[str, ...]:
    """Split a block into its entries, each joined to one line."""
    return tuple(" ".join(entry.split()) for entry in re.split(r"\n(?! )", block))


def table(entry: str) -> Table:
    """Read the rows of ``name / name: word / word | word / word``."""
    head, _, rows = entry.partition(": ")
    names = head.split(" / ")
    return tuple(dict(zip(names, row.split(" / "), strict=True)) for row in options(rows))


def beat(items: Sequence[str]) -> Beat:
    """Read the templates of a list with dashes."""
    return tuple(item.removeprefix("- ") for item in items)


def options(text: str) -> tuple[str, ...]:
    """Split ``one | another | a third``."""
    return tuple(" ".join(text.split()).split(" | "))


# ---- Who lives in the stories. ----
# Two habits of the word lists keep the grammar simple. No name ends in "s", so that 's is always
# right. No word that can follow "a" sounds unlike its first letter (hour, unicorn): see articles().


@dataclass(frozen=True)
class Folk:
    """One of the peoples of the stories, and what is its own. Names and kinds go by pronoun: hero
    and friend never share one, so that "he" and "she" leave no doubt who of the two is meant."""

    names: dict[str, tuple[str, ...]]
    kinds: dict[str, tuple[str, ...]]
    page: Page


CHILDREN = Folk(
    names={
        "he": options("""Omar | Leo | Hugo | Nico | Kofi | Theo | Ravi | Finn | Milo | Otto | Sami
            | Luca | Emil | Tariq | Ben | Kenji | Pablo | Ivan | Noah | Adam | Felix | Anton | Musa
            | Jan | Oskar | Dario | Paul | Arun | Levi | Karim"""),
        "she": options("""Ana | Mina | Rosa | Nora | Yuki | Zara | Lena | Ada | Maya | Ivy | Priya
            | Elsa | Amina | Greta | Sofia | Lucy | Marta | Nina | Hana | Olga | Ruby | Clara | Emma
            | Leila | Frida | Paula | Dora"""),
    },
    kinds={"he": ("boy",), "she": ("girl",)},
    page=page("""
hands: hands
elder / elder_he: Mom / she | Dad / he | Grandma / she | Grandpa / he | Aunt [May|Fay|Rita] / she
    | Uncle [Joe|Bob|Sam] / he | Mama / she | Papa / he
home: in a [small|tall|yellow|white|crooked|stone|narrow] house [by the sea|on a hill|near the park|by the
    river|at the edge of town|next to a bakery|behind the church|beside an old mill]
    | on a [small|lonely|busy] farm with a [red|blue|big|leaky] barn
friend_full: {friend} from [next door|down the road|the corner house|the other side of the road]
"""),
)

BEASTS = options("""rabbit | mouse | fox | bear | cat | dog | squirrel | hedgehog | mole | badger
    | raccoon | hamster | panda | lion | tiger | chipmunk | monkey | wolf""")

ANIMALS = Folk(
    names={
        "he": options("""Bramble | Acorn | Rusty | Biscuit | Pepper | Basil | Pip | Bruno | Toby
            | Oscar | Barley | Fidget | Monty | Hopper | Chester | Copper | Tuck | Dusty | Sorrel
            | Nibble | Radish | Bongo"""),
        "she": options("""Hazel | Clover | Willow | Poppy | Daisy | Maple | Fern | Luna | Tilly
            | Olive | Rosie | Peach | Honey | Misty | Nutmeg | Berry | Sunny | Pippa | Juniper
            | Minty | Saffy | Twiggy"""),
    },
    kinds={"he": BEASTS, "she": BEASTS},
    page=page("""
hands: paws
elder / elder_he: Mama {Kind} / she | Papa {Kind} / he | Granny {Kind} / she | Grandpa {Kind} / he
home: [in a hollow tree|in a cozy den|in a warm hole|in a round house|under the roots of a pine]
    [near a stream|by a quiet lake|below a hill|behind a mossy wall|at the edge of a deep forest|where
    the meadow meets the woods|on the sunny side of the valley]
friend_full: {friend} the {friend_kind}
"""),
)

PLAYTHINGS = options("""toy bear | rag doll | tin robot | sock monkey | wooden soldier | toy knight
    | cloth rabbit | toy lion | paper clown | wooden sailor | toy pirate | glass doll | wool fox""")

TOYS = Folk(
    names={
        "he": options("""Bolt | Ziggy | Tock | Tinker | Domino | Jingle | Pom | Buddy | Marble
            | Rocket | Bingo | Wink | Rattle | Cookie | Zip | Tumble | Hobby | Gizmo"""),
        "she": options("""Dot | Velvet | Lulu | Bella | Mimi | Pearl | Dolly | Coco | Twinkle
            | Silky | Lacy | Fifi | Tansy | Loopy | Kiki | Satin | Bonny | Tutu"""),
    },
    kinds={"he": PLAYTHINGS, "she": PLAYTHINGS},
    page=page("""
hands: hands
elder / elder_he: Granny Patch / she | Captain Tin / he | Auntie Button / she | Uncle Cork / he
    | Grandpa Clock / he | Mama Ribbon / she | Papa Peg / he
home: [in a town made of blocks|in a tiny village of shoe boxes|in a doll house with a green door|in a
    toy castle|in a big box with a painted door|in a paper house] [behind the bookcase|in the
    garden|under a pear tree|next to the piano|at the end of a long hall]
friend_full: {friend} the {friend_kind}
"""),
)

FOLKS = (CHILDREN, ANIMALS, TOYS)

PRONOUNS = {"he": ("he", "him", "his"), "she": ("she", "her", "her")}


# ---- What every story has: a world, a first and a last paragraph. ----


FRAME = page("""
trait: little | curious | cheerful | quiet | playful | gentle | clever | busy | merry | dreamy
    | friendly | lively | small | young | jolly | sweet | funny | happy | polite | careful
color: red | blue | green | yellow | orange | purple | white | brown | pink | gray | [dark|light|bright]
    [red|blue|green]
wear: coat | vest | apron | cap | belt | bow tie | cape | jacket
hobby: run down the hill | climb over rocks | jump in puddles | dance in the kitchen | march about
    | hop on one foot | roll in the grass | splash in the stream | chase the wind | swing on the gate
    | skip from stone to stone | play hide and seek | turn in circles | walk on walls | race the clouds
quiet: look at the clouds | draw pictures of the moon | count the stars | sing [little|silly|old] songs
    | listen to [old|long|scary] stories | build towers of [stones|sand|cups] | watch the ants
    | collect [pebbles|feathers|shells|leaves] | make up silly words | look for lucky clover
    | talk to the [birds|trees|moon] | read about [the sea|dragons|far lands] | dream of far places
food: [apple|plum|pear|cherry|berry|nut|pumpkin|carrot|lemon] [pie|cake|pudding|bread]
    | [carrot|pea|corn|bean|potato|onion] soup | [pancakes|porridge|dumplings] with [honey|jam|cream]
    | [warm|fresh|brown] bread and [cheese|honey|jam] | noodles with [cheese|butter|peas]
helper_kind / helper_he: owl / she | turtle / he | toad / he | crow / she | goat / he | goose / she
    | donkey / he | duck / she | baker / he | gardener / she | farmer / he | painter / she
    | sailor / he | miller / he | hen / she | teacher / she | tailor / he | queen / she
helper: the {helper_kind}
a_helper: a [old|kind|wise|tired|tall|round|friendly|gray|small|thin|young] {helper_kind}
season: spring | summer | autumn | winter

- Once upon a time there was a {trait} {kind} [named|called] {hero}. {He} lived with {elder} {home}, and {likes}.
- {Hero} was a {trait} {kind} who lived {home}. {Likes}, and {also}. {Around}.
- {Home} lived a {trait} {kind} [by the name of|named|called] {hero}. {Likes}, and {also}. {Around}.
- There once was a {kind} [named|called] {hero}. {He} was {trait}, and {likes}. {Around}.
- [Long ago|Not long ago|Some time ago|Many years ago], a {trait} {kind} lived {home}. {His} name was {hero}, and
  {likes}. {Around}.
- {Hero} and {elder} lived {home}. {Hero} was a {trait} {kind}, and {likes}. {Also}.
- [Here is|This is] [a story about|the story of] {hero}, a {trait} {kind} who lived {home}. {Likes}, and {also}.
- Have you heard of {hero}? {He} was a {trait} {kind}, and {he} lived with {elder} {home}. {Likes}.

- That [night|evening], {hero} and {elder} had {food} for supper. "{Moral}," said {elder}, and {hero}
  [nodded|agreed|knew that it was true|thought so too].
- {Hero} [never forgot|always remembered|often thought of] that {season}. {He} had learned that {moral}.
- [Before bed|At bedtime|Under {his} warm blanket], {hero} thought about it all. "{Moral}," {he} [whispered|said to
  {him}self|told the moon|told {his} pillow], and [soon|then] {he} fell asleep.
- And [so|that is how] {hero} [learned|found out|came to know] that {moral}.[ The end.|]
- From that day on, {hero} [told everyone|liked to say|knew] that {moral}. [And it is true|And {elder} agreed|And
  {he} was right|So now you know it too].
- {Elder} gave {hero} a [big|long|warm] hug. "[You see|Remember|So you see], {dear}," said {elder}, "{moral}."
- {Hero} drew a picture of that day and hung it [over {his} bed|on the wall|by the window]. Under it {he} wrote in
  [big|small|{color}] letters: {moral}.
- [Later|In the evening|When the moon was up], {hero} and {elder} sat [by the fire|at the window|on the steps] and
  ate {food}. It had been a [good|long|fine] day, and {he} would never forget that {moral}.
- "[What did you learn|What do you know now], {dear}?" asked {elder} [at supper|that night|later]. {Hero} [thought
  for a while|did not have to think long|smiled]. "That {moral}," {he} said.
""")

SEASONS = {
    "spring": page("""
weather: mild | fresh | bright | breezy | soft
sky: the birds sang in every tree | the first flowers were out | the grass was wet with dew
    | small white clouds sailed by | the brook was full and loud
creature: robin | snail | frog | bumblebee | ladybug | sparrow | worm
""").tables,
    "summer": page("""
weather: hot | sunny | warm | bright | clear
sky: the sun was high in the sky | the clover was full of bees | there was not a cloud to be seen
    | the air smelled of hay | the cherries were ripe
creature: lizard | butterfly | grasshopper | beetle | snail | swallow | dragonfly
""").tables,
    "autumn": page("""
weather: windy | cool | crisp | gray | golden
sky: red leaves blew along the road | the geese flew south | the apples were ripe
    | the wind sang in the chimney | the fields were yellow
creature: pigeon | spider | magpie | sparrow | beetle | slug | moth
""").tables,
    "winter": page("""
weather: cold | snowy | frosty | icy | white
sky: snow lay on all the roofs | ice hung from the trees | the pond was frozen
    | thick flakes fell from the sky | the whole land was still and white
creature: robin | sparrow | magpie | pigeon | finch | wren | jackdaw
""").tables,
}

# Small change: these slots are no words of a story but made up anew wherever they stand.
PHRASES = {
    "one_day": options("""one {weather} {season} [morning|day|afternoon] | early one {season} morning
        | one {weather} [morning|day|afternoon] in {season} | on a {weather} day in {season}
        | on a {weather} {season} [morning|afternoon] | one {season} [day|morning], when {sky}"""),
    "likes": options("""{he} [liked|loved] to {hobby} and to {quiet} | {he} could {hobby} all day long
        | {his} favorite food was {food} | nobody could {hobby} like {him}
        | {he} [always|often] wore a {color} {wear} | {he} liked {food} [best|more than anything]
        | [most days|every Sunday|now and then] {he} would {quiet} | what {he} loved most was to {quiet}
        | {he} wore a {color} {wear} and liked to {hobby}"""),
    "also": options("""everyone [was fond of|knew|liked] {him} | {he} knew every [path|tree|stone] there | {he}
        [laughed|sang|hummed] a lot | {elder} was very proud of {him} | {he} was never [bored|late|still] | {he} was
        not very [big|tall|strong] | {he} had [big|bright|brown|green] eyes | {he} was always [hungry|awake early|a
        little late|on the move] | {he} always carried a [round|flat|lucky|shiny|old|tiny|bent]
        [stone|coin|key|feather|nut|bell|bead|spoon]"""),
    "around": options("""[next door|across the way|around the corner|not far away] lived a
        [fat|thin|grumpy|merry|very old|deaf|rich|lazy] [doctor|cook|shepherd|smith|barber|singer|dancer|fisher] who
        [sold|made|mended|painted|collected|loved] [hats|clocks|spoons|bells|kites|candles|brooms|mugs|maps] | the
        air there always smelled of [soap|fresh bread|wet leaves|roses|smoke|mint|hay|cheese|ink] | [nearby|not far
        off|a few steps away] stood [a|an old|a broken|a huge] [statue|fountain|bench|swing|ladder|chestnut
        tree|lamp post|sundial], where {hero} liked to [sit|think|sing|read|wait for {elder}]"""),
    "glad": options("""clapped {his} {hands} | jumped for joy | laughed out loud | felt warm inside
        | danced in a circle | smiled from ear to ear | gave a happy shout | did a little dance
        | could not stop smiling | was as happy as a [king|bee|lark] | began to [sing|hum|laugh]
        | hopped [up and down|from foot to foot] | turned [pink|red] with joy"""),
    "sad": options("""had tears in {his} eyes | sat down and sighed | hung {his} head | wanted to cry
        | felt [very small|cold all over|heavy inside|quite lost] | let out a [long|deep|little] sigh
        | bit {his} lip | looked at the ground | did not know what to do | swallowed hard"""),
    "dear": options("{hero} | my dear | little one | dear {hero} | my little {kind}"),
    "path": options("""past the [mill|well|school|baker], over the [bridge|stream|hill] and [through the
        meadow|along the wall|across the field] | down the [lane|road|steps] and [through the gate|under
        the tall trees|round the pond] | [along the river|across the square|up the steps] and [behind the
        church|past the shop|over the wall] | [through the woods|by the lake] and up the [hill|path]"""),
    "critter": options("""a [fat|thin|tiny|sleepy|busy|hungry|lonely|lost|merry|bold|shy|old] {creature}"""),
    "sight": options("""{critter} [on|behind|beside|next to] a [stone|fence post|log|flower pot|wheel|bucket|milk
        can|bush|bench|rake|ladder|basket]"""),
}


# ---- The plots. ----


LOST = page("""
season: spring | summer | autumn
thing: ball | drum | kite | scarf | whistle | hat | umbrella | blanket | spinning top | toy boat
    | picture book | music box | mitten | button | flag | lantern | cup | bucket | bell | pencil
yesterday / spot: had our picnic / under the [apple|plum|pear] tree
    | played hide and seek / behind the [flower pots|hedge|well]
    | rolled down the hill / at the foot of the hill | fed the ducks / beside the pond
    | waited for the mail / next to the mailbox | ate our lunch / under the bench
    | looked for snails / by the garden wall | played pirates / inside the old barrel
    | rode in the wagon / on the floor of the wagon | dug for gold / in the sand box
    | read in the sun / on the stone steps | jumped from the wall / at the bottom of the wall
moral: two pairs of eyes see more than one | a good friend helps you look
    | it is wise to put things back where they belong | thinking helps more than crying

- {One_day}, {hero} wanted {his} {color} {thing}, but it was gone. {Elder} had [given it to {him}|made it for
  {him}|found it for {him}], and {he} loved it [more than anything|very much]. "[Oh no|Oh dear|How odd]," {he}
  [cried|said|called]. "Where can it be?"
- It was a {weather} {season} day, and {sky}. {Hero} reached for {his} {color} {thing}, and it was not there. {He}
  {sad}. It was the [best|only|nicest] {thing} {he} had.
- "Has anyone seen my {color} {thing}?" {hero} asked [at breakfast|in the kitchen|over and over]. Nobody had. "I had
  it yesterday," {he} said, "and now it is gone." {He} {sad}.

- {He} looked [under the table|under the bed|under the rug], [behind the door|behind the stove|behind the chair] and
  [inside the closet|in every drawer|in all the boxes]. [No {thing}!|It was not there.] All {he} found was {sight}.
- First {he} turned {his} room upside down. Then {he} [asked {elder}|emptied every box|crawled under the stairs].
  {He} found [an old sock|a bit of string|a lot of dust|half a cookie], but no {thing}.
- {He} searched high and low. {He} found [a lost sock|a dry crust|half a cookie|one blue shoe] and [two pins|a white
  feather|a broken comb|a long thread], but {he} did not find the {thing}.

- {Friend_full} [heard about it and came over|came to help]. "[Think back|Let us think]," said {friend}. "What did
  we do yesterday?" {Hero} shut {his} eyes. "We {yesterday}," {he} said slowly. "Then let's [go and look there|run
  back there|start there]!" said {friend}.
- At last {he} went to see {friend_full}. "I have lost my {thing}," {he} said. {Friend} [scratched {friend_his}
  head|thought hard|hummed a while]. "Yesterday we {yesterday}," {friend_he} said. "[Could it still be there|Did you
  have it then|Shall we go back and look]?"

- They ran {path}. And there it was, {spot}, [wet with dew|a bit dusty|safe and sound]! {Hero} {glad}. "[Thank
  you|What would I do without you|You are the best], {friend}!" {he} said.
- The two friends hurried {path}. There was {sight}, but they did not stop. {Friend} saw it first. "There, {spot}!"
  {friend_he} called. {Hero} picked up the {thing} and {glad}.
- {Hero} and {friend} went {path} and looked [with care|all around|left and right]. "I see something {color}," said
  {hero}. It was the {thing}, {spot}! They [carried it home together|took turns with it all the way home|sang all
  the way home].
""")


FEAR = page("""
place / errand / noise / truth: cellar / a jar of [jam|plums|honey] / [drip, drip|gurgle] / a leaky pipe
    | attic / the old [lamp|map|trunk] / scratch, scratch / a branch on the roof
    | shed / the [watering can|rake|ladder] / [creak, creak|bang] / the door in the wind
    | barn / a basket of eggs / [thump, thump|knock, knock] / a loose board
    | dark wood / some dry sticks / hoo, hoo / a sleepy owl
    | old mill / a bag of flour / [clack, clack|rumble] / the mill wheel
    | cave / a jug of cold water / plop, plop / water on a stone
    | old tower / the long rope / [flap, flap|swish] / a flag in the wind
moral: being brave means going on when you are afraid | a scary thing is less scary with a friend
    | most monsters are small when you look at them | a friend and a light make the dark small

- {Hero} had one secret. {He} was afraid of the {place}. It was [gloomy|black as night|cold] in there, and {he} was
  sure that [something big|a monster|a giant|someone with long teeth] lived inside.
- There was only one thing {hero} did not like, and that was the {place}. "[Surely|I think|I bet] a
  [monster|ghost|giant|dragon] lives there," {he} often [thought|said], and {he} always walked [around it|past it
  very fast|by on the other side].
- {Hero} was not afraid of [thunder|spiders|big waves|bulls]. But {he} was afraid of the {place}. Nobody knew it but
  {elder}[ and {critter}|].

- {One_day}, {elder} said, "{Dear}, please get me {errand} from the {place}." {Hero} {sad}. But {he} wanted to help,
  so {he} [nodded|said yes|put on {his} {wear}].
- {One_day}, {elder} needed {errand} from the {place}. "Can you go, {dear}?" {elder_he} asked. {Hero}'s [heart beat
  fast|knees shook|mouth went dry]. "[Must I go|All by myself|Me]?" {he} whispered.

- "I will come with you," said {friend_full}. They [lit a lantern|took a candle] and held {hands}. It was [cold|very
  still|dark] inside. Then something went, "{Noise}!"
- {He} told {friend_full} about it. "Everyone is afraid of something," said {friend}. "I am afraid of
  [geese|bees|deep water|dreams]. Let's go slowly, [side by side|step by step]." They went in with a [lantern|small
  light|candle]. "{Noise}!" went something in the dark.
- {Friend_full} was there and took {his} arm. "We will sing as we go," said {friend}. So they sang a
  [loud|silly|long] song and went in with a lamp. [Suddenly|All at once|Then] they heard it: "{Noise}!"

- {Hero} took a deep breath, held up the light and looked. It was only {truth}! The two of them [laughed|giggled]
  until [their bellies hurt|the walls rang|they had to sit down].
- "Who is there?" called {hero} in a [small|thin|brave] voice. Nobody answered. {He} took one step, and one more.
  "Look, {friend}," {he} [said|whispered], "it is only {truth}!"
- {Friend} wanted to run, but {hero} did not let go. "First I want to see it," {he} said. {He} lifted the light.
  There was no monster, only {truth}[ and {critter}|].

- {He} brought {errand} back to {elder}. "[How brave you are!|Were you not afraid?|Was it very dark?]" said {elder}.
  "I was afraid," said {hero}, "but I went [anyway|on|all the same]."
- Then {he} found {errand} and carried it back with {his} head held high. {He} {glad}. After that {hero} went to the
  {place} [every week|whenever {elder} asked|even at night].
""")


QUARREL = page("""
thing / sharing: swing / {hero} pushed and {friend} flew up high, and then they changed places
    | wagon / {friend} pulled and {hero} rode, and then it was the other way round
    | kite / {friend} held the string and {hero} ran along with the tail
    | drum / {hero} played the drum and {friend} danced to it
    | ball / they threw it back and forth a [hundred|thousand] times
    | paint box / they painted one big picture [of the sea|of a dragon|of the two of them]
    | tent / they sat in it side by side and told [jokes|stories|secrets]
    | puppet / {hero} moved it and {friend} made it [speak|sing]
    | trumpet / {hero} blew and {friend} sang along
    | toy train / {hero} built the [bridges|tunnels] and {friend} drove the train
    | jump rope / {friend} jumped and {hero} counted out loud
    | scooter / they both stood on it and rolled down the lane
moral: sharing is more fun than winning | it takes a big heart to say sorry
    | a friend is worth more than a {thing} | a toy is twice as good when two can play

- {One_day}, {elder} [came home with|found|bought] a {color} {thing}. {Hero} and {his} friend, {friend_full}, saw it
  at the same time. "Me first!" cried {hero}. "No, me!" cried {friend}.
- {One_day}, {hero} and {friend_full} found an old {color} {thing} [by the road|in a box|in the yard|behind the
  barn]. "I saw it first," said {hero}. "But I [touched|reached|got] it first," said {friend}.
- {Hero} got a new {color} {thing} from {elder}. {One_day}, {friend_full} came to see it. "[May I|Can I] try?" asked
  {friend}. "[Not yet|Later|Tomorrow]," said {hero}. "You always say that!" said {friend}.

- They pulled and [shouted|pushed|cried] until both were [red in the face|hot and cross]. "You are [mean|silly|no
  fun]!" said {friend}. "Then go home!" said {hero}. And {friend} [stomped off|went without a word|ran away].
- {Friend} stamped {friend_his} foot. {Hero} [made a face|turned {his} back|stuck out {his} tongue]. "I will never
  play with you again," said {friend}, and {friend_he} [walked away|slammed the gate|left].

- Now {hero} had the {thing} all to {him}self. But it was no fun [alone|without {friend}]. [The garden|The house|The
  yard] was very quiet, and {he} {sad}.
- {Hero} sat next to the {thing} and did not even look at it. "What is the matter?" asked {elder}, and {hero} [told
  it all|explained]. "A {thing} cannot [laugh with you|be your friend|tell you jokes]," said {elder}
  [softly|kindly].
- {He} tried to play, but it was not the same. Only {critter} watched {him}. Who would [laugh|cheer|play along] now?
  "It was my fault too," {he} [thought|said to {elder}] at last.

- So {he} went {path} to look for {friend}. On the way there was {sight}, but {he} did not even look. "I am sorry,"
  said {hero}. "I am sorry too," said {friend}. They [both grinned|shook {hands} on it].
- {He} took {his} [last cookie|best apple|bread and honey], broke it in two and brought half to {friend}. "[Will you
  come back|Are we friends again]?" asked {hero}. {Friend} [nodded|smiled] with {friend_his} mouth full.
- {He} opened the door, and there stood {friend}! "I am sorry," they both said at the same time, and then they
  [laughed|hugged|blushed].

- After that, {sharing}. It was the [best|happiest|nicest] [day|afternoon] of the whole {season}.
- Soon they were at it again, but now {sharing}. [The time flew by.|They played until dark.|They did not quarrel
  once.]
""")


STRANGER = page("""
season: spring | summer | autumn
trouble / help: {helper_his} cart was stuck in the [mud|sand] / pushed the cart until it rolled free
    | {helper_his} basket had broken and the plums had rolled away / ran and picked up every plum
    | {helper_his} glasses were lost in the grass / searched the grass until the glasses were found
    | {helper_his} scarf was caught on a thorn bush / pulled the scarf free, one thorn at a time
    | {helper_his} [bag|box|trunk] was too heavy / helped to carry the load to the very end of the road
    | the wind had blown {helper_his} letters away / ran after the letters and caught them all
    | {helper_he} could not find the way to [town|the sea|the market] / walked along and showed the way
    | {helper_he} had a stone in {helper_his} shoe / took off the shoe and shook it
mishap / rescue: lost {his} way in the fog / led {him} home
    | got {his} kite stuck in a tree / brought a ladder and got it down
    | dropped {his} [shoe|hat|bag] in the stream / fished it out with a stick
    | tore {his} {wear} on a fence / took out a needle and mended it
    | was caught in a storm / held a big umbrella over {him}
    | built a boat that would not float / knew just how to mend it
    | had no more wood for the stove / came with a cart full of logs
moral: kindness finds its way back | even small {hands} can be a big help
    | it costs nothing to be kind | a kind deed turns a stranger into a friend

- {One_day}, {hero} was walking {path} when {he} met {a_helper}. {Helper} looked [tired|sad|worried|upset], because
  {trouble}.
- It was a {weather} {season} day, and {sky}. {Hero} was [on {his} way home|out for a walk] and saw {a_helper} by
  the road. "[Oh dear|What bad luck|Oh my]!" said {helper}, for {trouble}.
- {Hero} and {friend_full} were [playing tag|playing ball|watching {sight}] {one_day}. Just then {a_helper} came by.
  {Helper} was close to tears, because {trouble}. {Friend} ran on, but {hero} stopped.

- "[Can|May] I help you?" asked {hero}. {Helper} was surprised. "[Nobody else has asked|You are the first to
  stop|That is very kind]," {helper_he} said.
- Others went by and looked the other way. {Hero} looked around. There was only {sight}. "I am not big," thought
  {hero}, "but I can try." {He} [went up to {helper}|rolled up {his} sleeves|put down {his} bag].
- {Hero} was in a hurry, for {he} wanted to {hobby}. But {he} could not just [walk on|leave|look away]. "Do not
  [worry|cry|give up]," {he} said to {helper}. "I am here."

- {He} {help}. It took a [long|good long] time. "Thank you, little {kind}," said {helper}. "I will not forget you."
- {Hero} {help}. "How can I thank you?" asked {helper}. "[Oh, it was nothing|You do not have to|I liked to do it],"
  said {hero}, and {he} {glad}.

- [A week|Three days|A month|Some time] later, {hero} {mishap}. {He} {sad}. Then {he} heard a voice [that {he}
  knew|behind {him}|nearby]. It was {helper}! "You helped me, and now I help you," said {helper}, who {rescue}.
- Not long after that, {hero} {mishap}. "[Who can help me|What now|What shall I do]?" {he} [said|cried]. Who should
  come [along|by|down the road] but {helper}! {Helper} {rescue}. "[Now we are even|That is what friends are for|I
  was glad to come]," {helper_he} said.
""")


BROKEN = page("""
thing / broke / repair: teapot / fell and cracked / glued it together, piece by piece
    | vase / fell over and broke / stuck the pieces together with [strong|thick] glue
    | clock / fell off the wall and stopped / put a new [spring|wheel] inside
    | quilt / caught on a nail and tore / sewed a [bright|big|round] patch over the hole
    | umbrella / bent in two / made the wires straight again
    | rocking chair / tipped over and lost a leg / carved a new leg
    | basket / got a big hole / wove fresh straw into the hole
    | fiddle / fell down and two strings snapped / put on new strings
    | mirror / slipped and the frame broke / nailed a new frame
    | lamp / rolled off the shelf and bent / hammered it straight
moral: the truth makes a heart light | telling the truth is the first step to mending
    | nearly everything can be mended | the truth is easier to carry than a secret

- {Elder} had an old {color} {thing} and was very fond of it. {One_day}, {hero} was
  [dancing|running|jumping|hopping] too close to it. [Bump!|Oops!|Bang!|Crash!] The {thing} {broke}.
- "[Please be careful with|Do not play near|Keep away from] my {thing}," {elder} always said. But {one_day}, {hero}
  forgot. {He} [threw a ball|spun round and round|played horse and rider|chased {critter}] in the house, and the
  {thing} {broke}.

- {Hero} {sad}. "[Maybe|Perhaps] nobody will see it," {he} thought. {He} [put a blanket over|pushed a chair in front
  of|hid] the {thing} and [tiptoed|crept|sneaked] away.
- Nobody had seen it but {friend_full}. "You should tell {elder}," said {friend}. "[I can't|I don't dare|Not
  today]," said {hero}. "{Elder} will be so [angry|sad|upset]!"
- {Hero} stood quite still. {He} could say that [the cat|the wind|a ghost] had done it. {He} could [run away|hide in
  bed|say nothing]. None of that felt right.

- At supper there was {food}, but {he} could not eat a bite. {His} belly felt [full of stones|like a knot|as cold as
  ice].
- {He} tried to {quiet}, but {he} could only think of the {thing}. Even {critter} seemed to [know|look at
  {him}|shake its head].
- All day {he} did not [laugh|sing|play] once. "Are you ill, {dear}?" asked {elder}. {Hero} shook {his} head and
  {sad}.

- At last {he} went to {elder}. "I broke your {thing}," {he} said in a [tiny|shaky|small] voice. "I am sorry."
  {Elder} was quiet for a [moment|while]. "I am sad about the {thing}," said {elder}, "but I am glad that you told
  me."
- "{Elder}," {he} said, "I have to tell you something." And out it came, [all of it|every bit]. {Elder} took {his}
  {hands}. "That was hard to say," {elder_he} said. "[Now let's see what we can do|Let me look at it|We will fix
  it]."

- Together they {repair}. The {thing} looked a little [crooked|funny|odd] now. "I like it even more," said {elder},
  "because we [fixed|mended] it together."
- {Hero} got the tools, and they {repair}. When it was done, {he} {glad}. The {thing} was [almost as good as new|as
  good as before|ready for use].
""")


PROMISE = page("""
season: spring | summer | autumn
chore / result: water the [beans|roses|peas] / the whole garden stood fresh and green
    | feed the hens / the hens were full and had laid [three|five|six] eggs
    | bring in the wash / the wash lay dry and folded in the basket
    | watch the bread in the oven / the bread was golden brown
    | sweep the [kitchen floor|stairs|hall] / there was not a speck of dust to be seen
    | keep the goats out of the garden / not one cabbage had been eaten
    | shell the peas / the peas lay in a bowl
    | stack the logs / the logs stood as straight as a wall
fun: fly kites on the hill | see the puppet show | sail boats on the pond | slide down the hay
    | build a dam in the stream | look for treasure on the beach | hear the band in the square
    | ride the pony | pick berries in the woods
moral: a promise is a promise | first comes the work and then the play
    | play is best when the work is done | people trust the one who keeps a promise

- {One_day}, {elder} had to go to [market|town|the doctor|a wedding]. "Will you {chore} while I am gone?" asked
  {elder}. "[I promise|I will, I promise|Yes, I promise]," said {hero}.
- {One_day}, {elder} put on {elder_his} hat. "I will be back [at four|before dark|for supper]," said {elder}. "Do
  not forget to {chore}." "[You can count on me|I won't forget]," said {hero}. "I promise!"

- No sooner was {elder} gone than {friend_full} [came running|knocked at the door]. "[Come quick|Hurry up|Put on
  your boots]!" called {friend}. "We are all going to {fun}!"
- {Hero} had hardly begun when {friend_full} [looked over the fence|whistled at the gate|came by]. "I am off to
  {fun}," said {friend}. "[Are you coming|Will you come too]?"

- {Hero} wanted to go so much that {his} feet began to [dance|itch]. "Just [five minutes|a little while]," {he}
  thought. Then {he} shook {his} head. "I promised to {chore}," {he} said, "and so I will."
- {Hero} looked down the road. {He} looked back at the house. It was [not easy|very hard] to choose, and only
  {critter} was there to ask. "I can't come yet," {he} said [at last|slowly]. "I gave my word."
- "I would love to {fun}," said {hero}, and {he} {sad}. "But {elder} asked me to {chore}, and I said yes."

- {Friend} thought about it. "Then I will help you," {friend_he} said. "Two are faster than one." They [sang as they
  worked|worked side by side|told jokes all the while], and soon it was done. There was still time to {fun}.
- "[What a pity|Too bad|As you like]," said {friend}, and went. {Hero} worked [all alone|without a stop|as fast as
  {he} could] until it was done. Then {he} ran {path}. {He} was [just in time|not too late] to {fun} with the
  others.

- When {elder} came home, {result}. "I knew I could [trust you|count on you|leave it to you]," said {elder}, and
  {hero} {glad}.
- {Elder} came back [tired|late|with wet feet] and looked around. {Result}. "[Well done|What a fine job|Thank you],
  {dear}," said {elder}.
""")


RACE = page("""
season: spring | summer | autumn
race / mishap: running race / had tripped over a [root|stone|rope]
    | sack race / had fallen with both feet in the sack
    | wagon race / had lost a wheel
    | egg and spoon race / had slipped on a broken egg
    | hopping race / had twisted one foot
    | scooter race / had rolled into a [ditch|hedge]
    | relay race / had got a [stone|thorn|bee] in one shoe
    | stilt race / had fallen into a [bush|puddle]
prize: a big cake | a golden cup | a {color} flag | a crown of flowers | a basket of plums
    | a silver star | a box of sweets | a {color} ribbon
moral: a friend is worth more than a prize | you can come last and still win
    | winning is sweet, but helping is sweeter | nobody should be left behind

- {One_day}, there was a {race}, and {a_helper} was the judge. The prize was {prize}. {Hero} had trained for it [all
  {season}|every day|for weeks]. "I am going to win," {he} told {friend_full}. "We will see," [laughed|said]
  {friend}.
- "A {race}! The winner gets {prize}!" {a_helper} called out {one_day}. {Hero} and {friend_full} [ran to the
  start|wrote down their names|took their places] at once.

- "Ready, steady, go!" called {helper}. {Hero} shot off like [an arrow|the wind|a rabbit]. {Path} they went, past
  {sight}, and soon {he} was [far ahead|in front of them all].
- {Helper} [rang a bell|waved a flag|blew a horn], and off they went, {path}. At first {hero} was last, then third,
  then second. Now {he} was first!

- Then {he} heard a cry. {He} looked back. {Friend} {mishap} and [could not get up|was all alone|sat in the dust].
  The others just [ran on|hurried past|laughed].
- {He} could see the [finish|ribbon|judge] already. But who was calling? It was {friend}, who {mishap}. "[Go
  on|Run|Never mind me]!" said {friend}. "You can win!"

- {Hero} [thought of the prize|looked at the finish] and {sad}. Then {he} turned around and ran back. "[Hold on to
  me|Lean on me|Take my arm]," {he} said. Arm in arm they went on, and they came in [last of all|long after the
  others|behind {critter}].
- "[A race is only a race|I can win some other time|Let them run]," said {hero}. {He} helped {friend} up, wiped
  {friend_his} knees, and they walked to the end together. They were the very last.

- But everyone [clapped|cheered|shouted] louder for them than for the winner. {Helper} brought {food} for both.
  "[This|Here] is the prize for the biggest heart," said {helper}.
- "You did not get the prize because of me," said {friend}. "[I do not mind|Never mind that]," said {hero}. "I came
  in with my best friend." And the two of them [ate|laughed|danced] until the stars came out.
""")


RAIN = page("""
season: spring | summer | autumn
stuff / made / game: a big box / a ship / sailed to an island of [pillows|cats|candy|gold]
    | two chairs and a blanket / a castle / kept watch for [dragons|giants|robbers]
    | all the chairs / a train / rode over the mountains and through a long tunnel
    | pots, pans and spoons / a band / marched through every room
    | a pile of old socks / a puppet show / made the socks [sing|dance|sneeze] and argue
    | a heap of pillows / a mountain / climbed to the top and planted a [flag|spoon|broom]
    | a broom and a barrel / a rocket / flew [twice|ten times] around the [moon|sun]
    | an old sheet and a rope / a circus tent / walked the rope like dancers
    | a long table / a cave / hunted for [jewels|bears|gold] in the dark
    | a pile of hats / a theater / played a king, a cook and a thief
moral: a rainy day can be the best day of all | you can travel far without leaving the house
    | a good game needs very little | there is fun to be found in all weather

- One {season} [day|morning] it rained and rained. Drops ran down the window, and {hero} could not go out to play.
  "[What a long|What a gray|This is a dull|What a sad] day," {he} sighed.
- Drip, drop, splash! It had been raining for [two|three|four] days. {Hero} had read every book and [eaten every
  cookie|counted every drop]. {He} {sad}. "There is nothing to do," {he} told {elder}.
- The rain drummed on the roof. {Hero} [pressed {his} nose to the window|lay on the floor] and watched {sight}, all
  wet. "[Will it never stop|When can I go out]?" {he} asked. {Elder} did not know.

- Then there was a knock. There stood {friend_full}, [dripping wet|wet from top to toe]. "[I was bored at home|It is
  too wet for me out there|Let me in]," said {friend}. They looked around and found {stuff}.
- "[Look in the hall|Why not use these things|You may have this]," said {elder}, and pointed to {stuff}. "What can
  we do with that?" asked {friend_full}, who had come to visit.

- {Hero} looked, and [blinked|rubbed {his} eyes], and looked once more. "I know!" {he} called. "We will make
  {made}!" They pushed and pulled and [tied|piled|built] until it was just right.
- "What if we make {made}?" said {hero}. "[What a good idea|Oh yes|Quick]!" said {friend}. They worked as hard as
  [bees|ants|elves], and [before long|soon] it was done.

- First {hero} gave the orders, and then it was {friend}'s turn. They {game}. {Elder} [looked in|came by] and was
  given a [seat in front|ticket made of paper|paper hat].
- All [day|afternoon] they {game}. "[Watch out|Be careful|Hold on]!" cried {friend}, and they both [laughed so hard
  that they fell down|ducked and giggled|screamed with joy].
- They {game}. When they were hungry, {elder} brought {food}, and they ate it [on the floor|in great style|under the
  table].

- "Look, the rain has stopped," said {elder}. "You can go out now." "[Not now|Later|Not yet]," said {hero} and
  {friend}. "We are too busy!"
- Nobody saw that the sun had come out. "Will it rain tomorrow?" asked {friend}. "I hope so!" said {hero}, and {he}
  {glad}.
""")


BIRTHDAY = page("""
gift: kite | drum | pair of boots | scooter | paint box | music box | tent | lantern | trumpet | wagon
    | toy boat | book of maps | umbrella | spyglass | pocket knife | toy train
excuse: I have to wash my [socks|hair|hat] | I must clean my room | I have a [cold|lot to do]
    | I am helping in the [garden|kitchen|shop] | I have to write a letter | I am too busy
moral: friends may be quiet because they keep a happy secret | it is good to trust your friends
    | love may hide for a day, but not for long | the best gifts take a little time

- {One_day}, {hero} woke up with a smile. It was {his} birthday! {He} ran to {elder}. "Good morning," said {elder},
  and went on [sweeping the floor|stirring the soup|reading|sewing]. Not a word about the day!
- Today was {hero}'s birthday. {He} put on {his} best {wear} and waited for someone to [sing|say it|hug {him}]. But
  {elder} only said, "[Eat your bread|Wash your face|Shut the door], {dear}."

- So {he} went to see {friend_full}. "Can you play?" asked {hero}. "No, {excuse}," said {friend}, and quickly [shut
  the door|hid something behind {friend_his} back|looked away].
- {Hero} met {friend_full} [in the lane|by the well|at the gate]. "Do you know what day it is?" {he} asked. "[It is
  Monday|A day like any other|No idea]," said {friend}. "I must go. {Excuse}."

- {Hero} walked {path} and {sad}. There {he} met {a_helper}. "Why the long face?" asked {helper}. "Everyone has
  forgotten me," said {hero}. {Helper} [winked|smiled|coughed]. "Go home," {helper_he} said, "and you will see."
- "Nobody [remembers|cares|thinks of me]," {he} told {critter}. Just then {a_helper} came by. "I saw something
  {color} in your window," said {helper}. "[You had better have a look|Go and see what it is]."

- [Slowly|With slow steps] {he} opened the door. It was dark inside. Then a [light|candle] was lit. "Surprise!"
  shouted {elder}, {friend} and all the others. There were {color} [flags|balloons|ribbons|stars] everywhere, and in
  the middle stood a big [cake|pie|pudding].
- At home everything was [still|dark]. {He} took one step. "Happy birthday!" cried a dozen voices. {Elder} came out
  from behind the [door|stove|curtain], and {friend} [jumped out of a box|crawled from under the table|slid down
  from the shelf].

- "We had to keep it secret," said {friend}. "Here, this is for you." It was a new {gift}. {Hero} {glad}.
- {Friend} gave {him} a [heavy|shiny|pretty|big] box with a bow. Inside was a {gift}! "And I thought you had
  forgotten me," said {hero}. "[Never|How could we|Oh no]!" said {friend}.
""")


LIE = page("""
treat / trace: [berry|plum] pie / [blue|purple] juice on your chin | honey cake / honey on your {hands}
    | plate of cookies / a trail of crumbs behind you | cream tart / a white spot on your nose
    | cherry cake / red jam on your cheek | chocolate cake / a brown spot on your chin
    | pan of pudding / pudding on your ear | peach tart / a piece of peach on your {wear}
guest: the village fair | a sick neighbor | the new neighbor | the school party | the new teacher
    | the wedding | the old mayor
thief: a giant bird | a hungry goat | a man with a long [coat|beard|nose] | two big geese | a pirate
    | a [dragon|camel] | a bull with one horn
moral: a lie gets heavier the longer you carry it | one small lie can make a lot of trouble
    | it is never too late to tell the truth | people believe the one who tells the truth

- {One_day}, {elder} made a {treat} for {guest}. It stood in the window and smelled [so good|wonderful]. "Just a
  tiny [taste|bite]," thought {hero}. But one [became two|was not enough], and soon it was all gone.
- "[{Hands} off|Do not touch it|Look, but do not eat]," said {elder}. "This {treat} is for {guest}." But when
  {elder} was [in the garden|out of the room|at the door], {hero} ate a little, and a little more. In the end there
  was nothing left.

- "Where is my {treat}?" cried {elder}. {Hero} went hot and cold. "It was {thief}," {he} said quickly. "I saw it
  [through the window|with my own eyes|from the stairs]!"
- {Elder} came back and [stared|gasped|went pale]. "Who did this?" "I think it was {thief}," said {hero}, and looked
  [at {his} feet|the other way|out of the window].

- So {elder} called {friend_full}, and they all went out to look for {thief}. They went {path}, but they only saw
  {sight}. {Friend} got [cold|wet|tired|hungry]. With every step {hero} felt [worse|smaller].
- Soon the whole street was looking for {thief}. {Friend_full} [climbed up on a roof|looked in every barn|asked
  {critter}]. Nobody [laughed|played|sang] that day, and {hero} {sad}.

- Then {friend} looked at {hero} for a long time. "Why is there {trace}?" asked {friend}. {Hero} [turned
  red|swallowed|coughed]. "There was no thief," {he} said. "It was me. I am sorry I told a lie."
- "Stop!" cried {hero} at last. "There was nobody. I did it." "I know," said {elder}. "There is {trace}. I was
  [only|just] waiting for you to say it." "I am so sorry," said {hero}, and so {he} was.

- The next day they made a new {treat}. {Hero} [stirred|washed all the pots|lit the oven], and {he} did not take one
  lick until {elder} said yes.
- {Hero} said sorry to everyone, one by one. Then {he} helped to make another {treat}, and {he} carried it [to the
  door|to the table|there] {him}self.
- "Thank you for the truth," said {elder}. "Now get [an apron|a spoon|the flour]." They made a second {treat}, and
  {friend} got the [first|biggest|best] piece.
""")


WISH = page("""
wish / joy / trouble: to be as tall as a [tree|tower] / looked over all the roofs / did not fit into {his} bed
    | to be as small as an ant / rode on a beetle / called and called, but nobody could hear {him}
    | to fly like a bird / flew over the hills / had nobody to play with up in the clouds
    | to eat cake all day / ate [nine|ten|twelve] cakes before noon / had a belly that hurt too much to play
    | to be the strongest of all / lifted a cow with one arm / broke every cup and toy {he} touched
    | to stay up all night / made shadows on the wall until morning / was too tired to laugh
    | that nobody could see me / pulled funny faces at everyone / sat at the table and got no supper
    | to be as fast as the wind / ran to the sea and back / could not slow down to talk to anyone
moral: it is good to be just who you are | you should think twice before you wish
    | the best wish of all may be what you already have | every wish has two sides

- {One_day}, {hero} found an old well [behind the mill|in the woods|on a lonely hill]. {A_helper} sat next to it.
  "This is a wishing well," said {helper}. "Throw in a [pebble|coin|button], and you get one wish."
- {One_day}, {hero} gave {a_helper} [a drink of water|half of {his} bread|{his} {color} {wear}]. "You are kind,"
  said {helper}. "[Look into that well over there|Come to the old well with me], and make a wish."

- {Hero} did not think long. "I wish [so much|with all my heart] {wish}!" {he} cried. There was a [flash|puff of
  smoke|sound like a bell], {critter} stared at {him}, and it came true.
- What should it be? {Hero} looked up, and {he} looked down, and then {he} knew. "I wish {wish}," {he} said. The
  water [began to shine|bubbled|turned {color}], and {he} felt very strange.

- At first it was [wonderful|great fun|like a dream]. {He} {joy}. "You should try it too!" {he} told {friend_full},
  and {he} {glad}.
- {He} {joy}. [What fun!|Nothing was better!|What a day!] "I want it to be like this for ever," {he} told
  {friend_full}.

- But soon {he} {trouble}. "I miss you the way you were," said {friend}. {Hero} {sad}.
- That was fine [until evening|for a day|for a while]. Then {hero} {trouble}. {He} saw {friend} [play with the
  others|laugh in the yard|chase {critter}] and felt alone.

- {Hero} hurried back to the well. "Please, I want to be [just {hero}|the old {hero}|myself] again," {he} said.
  {Helper} nodded, and {hero} was the same {trait} {kind} as before.
- "Had enough?" asked {helper} at the well. "[More than enough|Oh yes|Yes, please]," said {hero}. {He} [shut {his}
  eyes|turned round three times|held {his} breath], and all was as it had been. {He} ran straight to {friend}.
""")


LEARN = page("""
season: spring | summer | autumn
skill / slip / success: ride a bicycle / fell into a [bush|ditch] / rode all the way around the pond
    | whistle / only blew air / whistled so well that a bird whistled back
    | swim / swallowed a lot of water / swam from one side of the pond to the other
    | juggle / dropped a ball on {his} foot / kept [three|four] balls in the air
    | jump rope / got tangled in the rope / jumped [twenty|fifty] times without a stop
    | fly a kite / ran the kite into a tree / made the kite fly higher than the roofs
    | play the [flute|horn] / made a sound like a sick goose / played a whole song
    | skip stones / saw the stone sink at once / made a stone hop [five|six] times
    | walk on stilts / fell flat into the hay / walked across the whole yard
    | bake bread / burned it black / took a soft brown loaf out of the oven
    | stand on {his} head / rolled over like a barrel / stood there until {friend} counted to ten
moral: you learn by trying again | nobody can do everything on the first day
    | a little bit every day goes a long way | falling down is a part of learning

- {Hero} wanted to learn to {skill}. {Friend_full} [could do it well|did it every day], and it looked so easy.
  {One_day}, {hero} tried it for the first time, and {he} {slip}.
- {One_day}, {friend_full} [waved|called|nodded] to {hero}. "[Come|Look]," said {friend}, "I know how to {skill}."
  {Hero} [could not wait|wanted to do it too]. But when it was {his} turn, {he} {slip}.

- "[One more time|Again|Once more]," {he} said. But it [was no better|went wrong again]. Even {critter} seemed to
  laugh. "I will never learn it," said {hero}, and {he} {sad}.
- {He} tried it once, twice and three times. [The others|Two geese|Some crows] laughed. {Hero} ran [home|away] and
  hid [under the bed|behind the shed|in the hay].

- {A_helper} had seen it. "How often did you try?" asked {helper}. "Three times," said {hero}. "Only three?" said
  {helper}. "I had to try [a hundred times|for a whole year|every day for a month]!"
- "Shall I tell you a secret?" said {elder}. "When I was [small|your age], I could not do it either. Do not hurry.
  [Breathe in, breathe out|Count to three|Think of a song], and try again."

- So {hero} went out every [morning|evening|day] and tried. On the first day it was [bad|awful]. On the second day
  it was [not so bad|a bit better]. {Friend} [sat on the wall and cheered|clapped each time|held {his} hat].
- {Friend} came to help. "[Slowly|Not so fast|Easy]," said {friend}, "and [look straight ahead|do not look at
  {critter}|keep calm]." They practiced [all week|every day], in sun and [wind|rain|fog].

- And then, all at once, {he} {success}! "[I can do it!|Did you see that?|Was that really me?]" {he} cried, and {he}
  {glad}.
- [One week|Ten days|One month] later, {he} {success}. {Friend} [threw {friend_his} cap into the air|shouted
  hooray|whooped]. "I knew you could," said {friend}.
- A [week|month] went by. Then {hero} called {elder} and {friend} to come and look. {He} was not afraid any more.
  {He} {success}!
""")


NEWCOMER = page("""
gift / play: paper boat / sailed boats in the rain barrel | piece of chalk / drew a road as long as the street
    | jump rope / jumped until they were out of breath | jar of bubbles / blew bubbles as big as pumpkins
    | bag of marbles / rolled marbles all afternoon | ball of clay / made a whole zoo of clay
    | book of riddles / asked each other riddles | drum / made so much noise that the crows flew off
    | paper crown / played king and queen | treasure map / hunted for [gold|pearls|treasure]
moral: it only takes one hello to make a friend | a shy friend may be the best friend of all
    | everyone is new somewhere | you should knock before you give up on a door

- {One_day}, a new family moved in next door. With them came a {friend_kind} named {friend}. {Friend_he} did not say
  a word and [looked at the ground|hid behind a big bag|watched {sight}].
- There was a new {friend_kind} at school that {season}, and {friend_his} name was {friend}. {Friend_he} sat [alone
  by the window|in the last row|behind the stove] and spoke so softly that no one could hear.

- "{Friend} is [strange|no fun|too quiet]," said the others. But {hero} saw that {friend} was watching their game
  [from behind the fence|through the window|from far off]. "{Friend_he} is only shy," {he} thought.
- {Hero} waved, but {friend} did not wave back. "[Am I so scary|What did I do wrong]?" {he} said to {elder}. "Give
  it time," said {elder}. "[Remember how you felt on your first day|New places are hard]."

- So {hero} took a {color} {gift}, put it [at {friend}'s door|on {friend}'s chair] and tiptoed away. The next
  morning {he} found a [note|card|leaf]. On it was one word: "Thanks!"
- The next day {hero} [took a deep breath|made up {his} mind] and went over. "I have a {gift}," {he} said. "It is
  [better with two|no good for one|yours if you want it]." {Friend} looked up for the first time.

- "Would you like to play?" asked {hero}. {Friend} [nodded|turned pink]. "I wanted to ask you," {friend_he} said,
  "but I did not [dare|know how]."
- "My name is {hero}," said {hero}. "I know," said {friend} in a [tiny|soft] voice. "I have listened to you all. You
  have a [funny|nice|loud] laugh." And then {friend_he} laughed too.

- Soon they {play}. {Friend} talked and talked, and {friend_he} knew the best [jokes|songs|games]. {Hero} {glad}.
- That day they {play}. The others [came closer|stopped their game]. "Can we play too?" they asked. "[Of course|The
  more, the better|Come here]!" said {friend}.
""")


SEED = page("""
season: spring
plant / grown: sunflower / a sunflower looked right over the [roof|wall]
    | pumpkin / a pumpkin lay there, as big as a [cart|barrel|pony]
    | bean / a bean plant had climbed up to the [window|roof]
    | rose / the first rose opened, as red as the evening sky
    | melon / a melon lay in the sun, round and sweet
    | cherry / a small cherry tree stood there, full of leaves
    | poppy / the whole corner was full of poppies
moral: good things take time | you cannot pull on a flower to make it grow
    | waiting is hard, but it is worth it | great things start out very small

- {One_day}, {hero} met {a_helper}, who gave {him} a {plant} seed. "Put it in the ground," said {helper}, "and then
  [wait|be patient|give it time]." It was so small that {he} nearly lost it.
- {One_day}, {hero} found a seed in {his} pocket. "What is it?" {he} asked {a_helper}. {Helper} [put on {helper_his}
  glasses|held it up to the light]. "That will be a {plant}," {helper_he} said, "if you can wait."

- {Hero} dug a hole [by the fence|behind the house|next to the gate], put the seed in and gave it water. Then {he}
  sat down and watched. [Nothing came up.|Nothing at all happened.|There was only {sight}.]
- {He} found a sunny spot and planted the seed. "Grow!" {he} said. {He} [sang to it|stamped {his} foot|danced around
  it], but the ground stayed brown and bare.

- "It must be [asleep|lost|broken]," {he} told {friend_full}. "Let's dig it up and see." "[No, don't|Wait|Stop]!"
  said {friend}. "You would hurt it." {Hero} {sad}.
- {Friend_full} came by and laughed. "You are [watering dirt|talking to mud|wasting your time]," said {friend}.
  {Hero} {sad}, but {he} brought water all the same.

- "It is busy under the ground, where we can't see it," said {elder}. So {hero} waited. It rained, and the sun
  shone, and one morning there was a tiny green [tip|leaf|thread]!
- A week went by, and then [one more|another]. {Elder} helped {him} to pull the weeds. And one day something green
  [looked out of|broke through] the ground. "{Friend}, come and see!" {hero} [cried|called|shouted].

- {He} watered it [every day|each evening], and it grew and grew. At the end of summer, {grown}. {Hero} {glad}.
- {Friend} and {hero} [built a little fence around it|kept the crows away]. [Weeks|Months] later, {grown}. "And it
  was just a seed!" said {friend}.
""")


PLOTS = (LOST, FEAR, QUARREL, STRANGER, BROKEN, PROMISE, RACE, RAIN, BIRTHDAY, LIE, WISH, LEARN, NEWCOMER, SEED)


# ---- How a story is told. ----


CHOICE = re.compile(r"\[([^][]*)\]")
ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")


class Teller(dict[str, str]):
    """The words of one story, by slot, and the luck that picks them."""

    def __init__(self, luck: random.Random) -> None:
        super().__init__()
        self.luck = luck

    def pick(self, items: Sequence[T]) -> T:
        """Pick one of the items, by ``random()``: it alone is the same in every version of Python."""
        return items[int(self.luck.random() * len(items))]

    def tell(self, template: str) -> str:
        """Make the [choices] of a template and fill its {slots}."""
        chosen = CHOICE.sub(lambda match: self.pick(match[1].split("|")), template)
        return chosen.format_map(self)

    def __missing__(self, slot: str) -> str:
        """Fill a slot that is no word of the story: it is a capital {Slot}, or a phrase."""
        if slot[0].isupper():
            text = self[slot.lower()]
            return text[0].upper() + text[1:]
        return self.tell(self.pick(PHRASES[slot]))

    def keep(self, tables: tuple[Table, ...]) -> None:
        """Draw a row of every table, in order: a row may use the words of the rows before it."""
        for rows in tables:
            for slot, word in self.pick(rows).items():
                self[slot] = self.tell(word)

    def pronouns(self, prefix: str, he: str) -> None:
        """Add the three forms of a pronoun as {he}, {him} and {his}, each with a prefix."""
        for form, word in zip(("he", "him", "his"), PRONOUNS[he], strict=True):
            self[prefix + form] = word


def cast(teller: Teller, folk: Folk) -> None:
    """Draw the hero, the friend, the grown-up and the helper, and the world around them."""
    he, other = teller.pick((("he", "she"), ("she", "he")))
    teller.pronouns("", he)
    teller.pronouns("friend_", other)
    teller["hero"] = teller.pick(folk.names[he])
    teller["friend"] = teller.pick(folk.names[other])
    teller["kind"] = teller.pick(folk.kinds[he])
    others = [kind for kind in folk.kinds[other] if kind != teller["kind"]]
    teller["friend_kind"] = teller.pick(others)
    teller.keep(folk.page.tables + FRAME.tables)
    teller.pronouns("elder_", teller["elder_he"])
    teller.pronouns("helper_", teller["helper_he"])


def articles(text: str) -> str:
    """Turn "a" into "an" before a vowel, so that no template must know what will fill its slots."""
    return ARTICLE.sub(r"\1n ", text)


def story(seed: int, index: int) -> str:
    """Tell story number ``index`` of the world ``seed``: the same text whatever else was told before.

    It has six or seven paragraphs, with a newline between, in printable ASCII; BookError if ``index`` is negative.
    """
    if index < 0:
        raise BookError(f"there is no story {index}; they are numbered from 0, so ask for 0 or more")
    teller = Teller(random.Random(f"{seed}/{index}"))  # a str is seeded by SHA-512, not by hash()
    cast(teller, teller.pick(FOLKS))
    plot = teller.pick(PLOTS)
    teller.keep(plot.tables)
    teller.keep(SEASONS[teller["season"]])  # only now: a plot may have a season of its own
    opening, ending = FRAME.beats
    paragraphs = (teller.tell(teller.pick(ways)) for ways in (opening, *plot.beats, ending))
    return articles("\n".join(paragraphs))


def stories(seed: int, count: int, first: int = 0) -> Iterator[str]:
    """Tell ``count`` stories of the world ``seed``, from number ``first`` on.

    BookError, already at the call, if ``count`` or ``first`` is negative.
    """
    if count < 0 or first < 0:
        raise BookError(f"cannot tell {count} stories from number {first} on; neither may be negative")
    return (story(seed, index) for index in range(first, first + count))
