"""Text and a small tokenizer for the verbs that calibrate on text."""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = ["A train leaves at {} and another at {}.", "She bought {} apples and {} pears.", "def f(x): return {} * x + {}",
             "The sum of {} and {} is larger than their difference.", "It rained for {} days, then for {} more."]


def text(lines, seed=0):
    return "\n".join(SENTENCES[(i * 7 + seed) % len(SENTENCES)].format((i * 31 + seed) % 97, (i * 17) % 89) for i in range(lines)) + "\n"


def save_tokenizer(directory):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([text(200)], trainers.BpeTrainer(vocab_size=320, special_tokens=["<|end|>"], show_progress=False,
                                                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(directory)
    return tokenizer


def save_text(path, lines, seed=0):
    path.write_text(text(lines, seed))
    return path


def save_lines(path, lines):
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path
