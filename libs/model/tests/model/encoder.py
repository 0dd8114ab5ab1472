"""Makes what `encoder.rs` reads: a tiny BERT with its answers, and the answers of all-MiniLM-L6-v2.

Nothing at test time needs this. Run with the environment of `setup/torch.sh` and transformers:

    setup/torch.sh && setup/encoder.sh
    P=$TIDEGATE_CACHE/torch/bin/python
    $P -m pip install --target /tmp/transformers --no-deps transformers==4.57.1 'tokenizers<0.23' \
        'huggingface-hub<1' regex requests tqdm pyyaml urllib3 certifi idna charset-normalizer
    PYTHONPATH=/tmp/transformers $P libs/model/tests/model/encoder.py $TIDEGATE_CACHE/encoder

`encoder/` is the tiny one: random weights (seeded), a WordPiece of a few words, and in
`expected.json` for each text its token ids, the final hidden state of each token, and their mean
divided by its length. `minilm.json`: for the real one ids and that mean, for texts of at most
`context` tokens. All computed by `transformers.BertModel` in f32, each text alone.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

HERE = Path(__file__).parent
TEXTS = [
    "free tickets to the opera, today only",
    "Minutes of the Meeting",
    "x",
    "the quick brown fox jumps over the lazy dog and then some more words follow it, all of them",
    "Ünïcödé 日本語 \U0001f980",
]


def word_piece():
    words = "free ticket ##s to the opera , today only minutes of meeting and then all x un".split()
    letters = [letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = list(dict.fromkeys(specials + words + letters + [f"##{letter}" for letter in letters]))
    vocab = {token: at for at, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    # As published ones do, which pad and cut: whoever reads it has to know better.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def tiny(folder, tokenizer):
    config = BertConfig(
        # More rows than tokens, as published ones often have.
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=40,
        layer_norm_eps=1e-12,
    )
    torch.manual_seed(11)
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        # No weight is left at a value that hides a mistake: gains of 1, biases of 0.
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def answers(model, tokenizer, context, states):
    tokenizer.no_padding()
    tokenizer.enable_truncation(context)
    model.eval()
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        pooled = torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)
        answer = {"text": text, "tokens": ids, "embedding": pooled.tolist()}
        if states:
            answer["states"] = hidden.flatten().tolist()
        yield answer


def write(path, context, model, tokenizer, states):
    found = {"context": context, "answers": list(answers(model, tokenizer, context, states))}
    path.write_text(json.dumps(found, ensure_ascii=False) + "\n")


def main():
    folder = HERE / "encoder"
    folder.mkdir(exist_ok=True)
    tokenizer = word_piece()
    model = tiny(folder, tokenizer)
    write(folder / "expected.json", 24, model, tokenizer, states=True)
    if len(sys.argv) > 1:
        real = Path(sys.argv[1])
        tokenizer = Tokenizer.from_file(str(real / "tokenizer.json"))
        write(HERE / "minilm.json", 16, BertModel.from_pretrained(real), tokenizer, states=False)


if __name__ == "__main__":
    main()
