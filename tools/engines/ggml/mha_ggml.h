/* SPDX-License-Identifier: Apache-2.0
 * mha inside ggml: computes the nodes of ggml_flash_attn_ext with mha, on the threads of ggml's CPU backend. */
#ifndef MHA_GGML_H
#define MHA_GGML_H

struct ggml_context;
struct ggml_tensor;

#ifdef __cplusplus
extern "C" {
#endif

/* What the nodes of any number of graphs share. Graphs that are computed at the same time take turns in it, so give
 * each backend (in llama.cpp: each llama_context) one of its own. */
struct mha_ggml;

/* NULL if mha cannot run on this CPU, or if there is no memory. */
struct mha_ggml* mha_ggml_new(void);
/* NULL is allowed. Graphs with nodes made for it must not be computed any more. */
void mha_ggml_free(struct mha_ggml* mha);

/* A node with the inputs, the parameters and the shape of `flash`, a node of ggml_flash_attn_ext, computed by mha;
 * sinks must be added to `flash` before. If mha does not serve these tensors, the result is `flash` itself, and
 * mha_ggml_reason says why. Either result is the one to use in the graph. */
struct ggml_tensor* mha_ggml_attention(struct mha_ggml* mha, struct ggml_context* ctx, struct ggml_tensor* flash);

/* Why the last mha_ggml_attention gave `flash` back; "" if it did not. */
const char* mha_ggml_reason(const struct mha_ggml* mha);

#ifdef __cplusplus
}
#endif

#endif /* MHA_GGML_H */
