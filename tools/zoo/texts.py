"""Texts and a tokenizer for the zoo of small trained models:

    texts.py OUT [--data DIR] [--vocab 4096]

writes OUT/train.jsonl, OUT/held_out.jsonl (a line a document, `text`) and OUT/tokenizer (byte-level BPE learnt from the
training texts). DIR holds gsm8k/{train,test}.jsonl and wikitext-2/{valid,test}.txt: GSM8K's training problems and WikiText-2's
validation articles are learnt, the test parts held out. Without it the texts are those of tools/demo_texts.py.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
END = "<|endoftext|>"


def problems(path):
    for line in path.open():
        row = json.loads(line)
        yield f"Question: {row['question']}\nAnswer: {row['answer']}"


def articles(path):
    """WikiText articles: each begins with a heading of one equals sign."""
    for text in re.split(r"(?m)^(?= = [^=\n]+ = \n)", path.read_text()):
        if text.strip():
            yield text.strip()


def of_data(folder):
    gsm, wiki = folder / "gsm8k", folder / "wikitext-2"
    return ([*problems(gsm / "train.jsonl"), *articles(wiki / "valid.txt")],
            {"gsm8k": list(problems(gsm / "test.jsonl")), "wikitext": list(articles(wiki / "test.txt"))})


def of_this_machine():
    import demo_texts

    train, held_out = [], {}
    for make in (demo_texts.code, demo_texts.law, demo_texts.sums, demo_texts.docs):
        parts = demo_texts.split(make())
        train += parts["train"].split("\n\n\n")
        held_out[make.__name__] = parts["test"].split("\n\n\n")
    return train, held_out


def blocks(texts, size=2000):
    """Groups of documents of about `size` characters; long ones are cut."""
    block = []
    for text in texts:
        block.append(text[:size])
        if sum(map(len, block)) >= size:
            yield block
            block = []


def learn_tokenizer(texts, vocab_size, out):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    config = dict(tokenizer_class="PreTrainedTokenizerFast", eos_token=END, bos_token=END, unk_token=END, model_max_length=1024, clean_up_tokenization_spaces=False)
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer.get_vocab_size()


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--vocab", type=int, default=4096)
    options = parser.parse_args()
    known = options.data and (options.data / "gsm8k/train.jsonl").exists() and (options.data / "wikitext-2/valid.txt").exists()
    train, held_out = of_data(options.data) if known else of_this_machine()
    options.out.mkdir(parents=True, exist_ok=True)
    write(options.out / "train.jsonl", train)
    # A block of every kind in turn, so that the first tokens of the held-out texts are a fair sample.
    mixed = [text for row in zip(*map(blocks, held_out.values())) for block in row for text in block]
    write(options.out / "held_out.jsonl", mixed)
    for name, texts in held_out.items():
        write(options.out / f"held_out.{name}.jsonl", texts)
    vocab = learn_tokenizer(train, options.vocab, options.out / "tokenizer")
    kind = f"GSM8K and WikiText-2 of {options.data}" if known else "texts of this machine"
    print(f"{kind}: {len(train)} documents to learn, {sum(map(len, train)) / 1e6:.1f} MB, vocabulary {vocab}")
