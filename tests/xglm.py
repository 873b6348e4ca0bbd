"""What the tests against transformers share: vocabularies for models that are made up."""

import sentencepiece.sentencepiece_model_pb2 as spm

# XGLM's vocabularies have one token more than SentencePiece's models, and made-up words at their end.
N_MADE_UP = 7


def write_vocabulary(path, n_vocab, base=None, letters=""):
    """A SentencePiece model for a vocabulary of XGLM's with n_vocab tokens: the pieces of the model `base` and its
    character map, or single letters; then made-up pieces."""
    n_pieces = n_vocab - 1 - N_MADE_UP
    model = spm.ModelProto()
    if base is not None:
        model.ParseFromString(base.read_bytes())
    else:
        kinds = spm.ModelProto.SentencePiece
        for text, kind in [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]:
            model.pieces.add(piece=text, score=0.0, type=kind)
        model.trainer_spec.model_type = spm.TrainerSpec.UNIGRAM
        model.normalizer_spec.add_dummy_prefix = True
        model.normalizer_spec.remove_extra_whitespaces = True
        for i, letter in enumerate(sorted({*letters, "\u2581"})):
            model.pieces.add(piece=letter, score=-3.0 - i / 64, type=kinds.NORMAL)
    del model.pieces[n_pieces:]
    while len(model.pieces) < n_pieces:
        i = len(model.pieces)
        model.pieces.add(piece=f"\u2581w{i}", score=-20.0 - i / n_pieces)
    model.trainer_spec.vocab_size = n_pieces
    path.write_bytes(model.SerializeToString())
