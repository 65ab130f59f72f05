"""The operators a canonical graph may hold, by what they do to a tensor."""

from __future__ import annotations

import torch

aten = torch.ops.aten

PRODUCTS = frozenset({aten.linear.default, aten.matmul.default})
LAYOUT = frozenset(
    {
        aten.reshape.default,
        aten.permute.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.cat.default,
        aten.constant_pad_nd.default,
        aten.roll.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten.expand.default,
    }
)
ELEMENTWISE = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.gelu.default,
        aten.relu.default,
        aten.silu.default,
        aten.tanh.default,
        aten.sigmoid.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.elu.default,
        aten.softplus.default,
        aten.exp.default,
        aten.sqrt.default,
        aten.rsqrt.default,
        aten.reciprocal.default,
        aten.neg.default,
        aten.abs.default,
        aten.pow.Tensor_Scalar,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.clamp_max.default,
        aten.maximum.default,
        aten.minimum.default,
    }
)
REDUCTIONS = frozenset(
    {
        aten.softmax.int,
        aten.layer_norm.default,
        aten.mean.dim,
        aten.sum.dim_IntList,
        aten.amax.default,
        aten.amin.default,
        aten.linalg_vector_norm.default,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.conv2d.default,
        aten.conv_transpose2d.input,
        aten.upsample_nearest2d.default,
        aten.upsample_bilinear2d.default,
        aten.upsample_bicubic2d.default,
    }
)
ALLOWED = PRODUCTS | LAYOUT | ELEMENTWISE | REDUCTIONS
"""Every operator a canonical graph may hold."""
