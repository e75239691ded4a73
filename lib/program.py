"""What every program that writes text asks for, and how it writes: the host programs of ``hw`` share it."""

from __future__ import annotations

import argparse

from lib.gpt import GPT, generate
from lib.text import decode, encode_prompt


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``lib.gpt.generate``, and the prompt."""
    parser.add_argument("--prompt", default="Once upon a time", help="what the text starts with")
    parser.add_argument("--length", type=int, default=200, help="characters to write (200)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    parser.add_argument("--top-k", type=int, help="sample from so many likeliest characters (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (0)")


def continued(model: GPT, given: argparse.Namespace) -> str:
    """Return the prompt and what a model, or what steps like one, writes after it.

    Raises BookError as ``lib.text.encode_prompt`` and ``lib.gpt.generate`` do.
    """
    prompt = encode_prompt(given.prompt)
    return given.prompt + decode(generate(model, prompt, given.length, given.temperature, given.top_k, given.seed))
