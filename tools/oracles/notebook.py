# SPDX-License-Identifier: Apache-2.0
"""The notebook's class exactly as it was written, and the one-line repair that makes it standard attention."""

import numpy as np
import torch
import torch.nn as nn


class MultiHeadAttention(nn.Module):
    """The notebook's own code, unchanged.

    It never moves the head axis before the product, so scores are [batch, positions, heads, heads]: the heads of each
    position attend to one another, and a query of one position is broadcast over the positions of the keys.
    """

    def __init__(self, input_dim, num_heads):
        super(MultiHeadAttention, self).__init__()
        self.num_heads = num_heads
        self.head_dim = input_dim // num_heads
        self.query_layer = nn.Linear(input_dim, input_dim)
        self.key_layer = nn.Linear(input_dim, input_dim)
        self.value_layer = nn.Linear(input_dim, input_dim)
        self.output_layer = nn.Linear(input_dim, input_dim)

    def forward(self, query, key, value):
        batch_size = query.size(0)

        # Apply linear projections to query, key, value
        query = self.query_layer(query).view(batch_size, -1, self.num_heads, self.head_dim)
        key = self.key_layer(key).view(batch_size, -1, self.num_heads, self.head_dim)
        value = self.value_layer(value).view(batch_size, -1, self.num_heads, self.head_dim)

        # Compute Scaled Dot-Product Attention for each head
        attention_output, attention_weights = self.scaled_dot_product_attention(query, key, value)

        # Concatenate heads and apply final output linear layer
        attention_output = attention_output.view(batch_size, -1, self.num_heads * self.head_dim)
        output = self.output_layer(attention_output)
        return output, attention_weights

    def scaled_dot_product_attention(self, query, key, value):
        # Compute Scaled Dot-Product Attention
        scores = torch.matmul(query, key.transpose(-2, -1)) / np.sqrt(self.head_dim)
        attention_weights = torch.softmax(scores, dim=-1)
        attention_output = torch.matmul(attention_weights, value)
        return attention_output, attention_weights


class StandardMultiHeadAttention(MultiHeadAttention):
    """The same with the head axis moved before the product: each head attends over the positions."""

    def scaled_dot_product_attention(self, query, key, value):
        output, weights = super().scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        )
        return output.transpose(1, 2).contiguous(), weights


def as_torch_layer(module):
    """torch's own nn.MultiheadAttention (batch first) with the parameters and the precision of `module`."""
    embed_dim = module.query_layer.in_features
    dtype = module.query_layer.weight.dtype
    layer = nn.MultiheadAttention(embed_dim, module.num_heads, batch_first=True, dtype=dtype)
    inputs = (module.query_layer, module.key_layer, module.value_layer)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.cat([linear.weight for linear in inputs]))
        layer.in_proj_bias.copy_(torch.cat([linear.bias for linear in inputs]))
        layer.out_proj.weight.copy_(module.output_layer.weight)
        layer.out_proj.bias.copy_(module.output_layer.bias)
    return layer.eval()
