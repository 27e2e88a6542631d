"""Symmetry-enhanced attention: every voxel looks at its own window and at the mirror-image window.

After the symmetry-enhanced attention network of Liang et al., "Symmetry-Enhanced Attention Network for Acute
Ischemic Infarct Segmentation with Non-Contrast CT Images" (MICCAI 2021), as one batched scaled dot product
over windows that reach through all slices of the stack.

Legend: B stacks, C channels, D slices, H rows, W columns, N windows, L tokens of a window.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SymmetryAttention(nn.Module):
    """Windowed attention of an aligned feature map against itself and its left-right mirror image.

    Windows tile the map symmetrically about the midline, so mirroring the input mirrors the output. At
    initialisation the block is the identity: its last layer is zero. Attention runs in half as many channels as the
    map has (Wang et al. 2018, Non-local Neural Networks, section 3.3), which halves its cost.

    Args:
        channels: channels of the map; even.
        slices: slices that the map must have (2T + 1); fewer means that something pooled the depth away.
        window_size: side of a window in pixels of the map.
        heads: attention heads; must divide half the channels.

    Raises:
        ValueError: ``heads`` does not divide half the channels.
    """

    def __init__(self, channels: int, *, slices: int, window_size: int, heads: int) -> None:
        super().__init__()
        inner = channels // 2
        if channels % 2 or inner % heads:
            raise ValueError(f"{heads} attention heads do not divide half of {channels} channels; choose a divisor")
        self.slices, self.window_size, self.heads = slices, window_size, heads
        self.norm = nn.GroupNorm(1, channels)
        # Queries, keys, values, and values as seen from the other side.
        self.project = nn.Linear(channels, 4 * inner)
        # Tells a mirrored key from an own one with equal content; without it asymmetry could not be seen.
        self.mirror_key = nn.Parameter(torch.zeros(inner))
        nn.init.trunc_normal_(self.mirror_key, std=0.02)
        self.out = nn.Linear(inner, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """Same shape in and out."""
        _, _, depth, height, width = x_BCDHW.shape
        if depth != self.slices:
            raise ValueError(f"attention was built for {self.slices} slices and got {depth}")
        down, side, columns = self._tiling(height, width)
        margins = (side, side, 0, down)
        tokens = self._windows(F.pad(self.norm(x_BCDHW), margins), columns)
        query, key, value, mirror_value = self.project(tokens).chunk(4, dim=-1)
        # A window's mirror image lies in the mirrored column of windows, its columns in reverse.
        mirror_key = key.flip(2, 5) + self.mirror_key
        keys = torch.cat([self._heads(key), self._heads(mirror_key)], dim=-2)
        values = torch.cat([self._heads(value), self._heads(mirror_value.flip(2, 5))], dim=-2)
        mask = None
        if any(margins):
            valid_HW = F.pad(torch.ones(height, width, dtype=torch.bool, device=x_BCDHW.device), margins)
            mask = self._key_mask(valid_HW, x_BCDHW.shape[0], columns)
        attended = F.scaled_dot_product_attention(self._heads(query), keys, values, attn_mask=mask)
        y = self.out(attended.transpose(1, 2).reshape(*tokens.shape[:-1], -1))
        return x_BCDHW + self._unwindow(y)[..., :height, side : side + width]

    def _tiling(self, height: int, width: int) -> tuple[int, int, int]:
        """Rows to add below, columns to add on each side, and the windows' width.

        Equal margins left and right keep the midline at the centre of the tiling. An odd map cannot be
        filled up evenly by even windows; there they are one column wider.
        """
        down = -height % self.window_size
        columns = self.window_size + (self.window_size % 2 == 0 and width % 2 == 1)
        count = -(-width // columns)
        count += (count * columns - width) % 2
        return down, (count * columns - width) // 2, columns

    def _windows(self, x_BCDHW: Tensor, columns: int) -> Tensor:
        """(B, H / rows, W / columns, D, rows, columns, C), contiguous."""
        B, C, D, H, W = x_BCDHW.shape
        x = x_BCDHW.reshape(B, C, D, H // self.window_size, self.window_size, W // columns, columns)
        return x.permute(0, 3, 5, 2, 4, 6, 1).contiguous()

    def _unwindow(self, windows: Tensor) -> Tensor:
        """The reverse of ``_windows``."""
        return windows.permute(0, 6, 3, 1, 4, 2, 5).flatten(5, 6).flatten(3, 4)

    def _heads(self, windows: Tensor) -> Tensor:
        """(B * N, heads, L, channels / heads) with L = D * rows * columns of a window."""
        return windows.flatten(3, 5).flatten(0, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _key_mask(self, valid_HW: Tensor, batch: int, columns: int) -> Tensor:
        """True where a key may be attended, (B * N, 1, 1, 2 L): padding is nobody's neighbour."""
        H, W = valid_HW.shape
        rows = self.window_size
        windows = valid_HW.reshape(H // rows, rows, W // columns, columns).transpose(1, 2)
        # Equal margins make the valid region its own mirror image: one mask serves both halves of the keys.
        own = windows.reshape(-1, rows * columns).repeat(1, 2 * self.slices)
        return own.repeat(batch, 1)[:, None, None, :]
