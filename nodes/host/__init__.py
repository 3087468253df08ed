"""The adapter to ComfyUI's internals. No other part of the pack imports `comfy`, `folder_paths` or `server`.

How a prompt with a NeTI token becomes contexts per layer:

1. **Apply Personalized Token** wraps CLIP in a `PersonalizedCLIP` and puts wrappers on a clone of MODEL.
2. Its `tokenize` writes `<my-dog>` as an `embedding:` name; the copied tokenizer answers with one marked item per vector.
3. Its `encode_from_tokens` lets the host encode the prompt as usual, with the token's mean embedding. It adds a `Payload`
   (tokenized prompt, tokens, text encoder) to the conditioning's `model_conds`, where stock nodes pass it on untouched.
4. When sampling starts, `_prepare_schedule` has each payload encode the prompt at all times of the schedule, once for each of
   the 16 cross-attention layers, and cache it.
5. `_claim_conds` checks that the conditioning is still the payload's, and gives every cond the key so that they batch.
6. `_swap_contexts` collects each row's contexts for this time, and adds an `attn2_patch` to this U-Net call only. In block
   after block the patch replaces the context by the layer's own: one for K and, for NeTI's bypass, another for V.

`HostUNet` uses the same patch for training, and `HostTextEncoder` is the encoder of both. Whatever a graph does that the
payload cannot follow falls back to the mean embedding of step 3, with a warning.
"""
