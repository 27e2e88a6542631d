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
    initialisation the block is the identity: its last layer is zero.

    Args:
        channels: channels of the map.
        slices: slices that the map must have (2T + 1); fewer means that something pooled the depth away.
        window: side of a window in pixels of the map.
        heads: attention heads; must divide ``channels``.

    Raises:
        ValueError: ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, *, slices: int, window: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels; choose a divisor")
        self.slices, self.window, self.heads = slices, window, heads
        self.norm = nn.GroupNorm(1, channels)
        self.query = nn.Conv3d(channels, channels, 1)
        self.key_value = nn.Conv3d(channels, 2 * channels, 1)
        # Tells a mirrored key from an own one with equal content; without it asymmetry could not be seen.
        self.mirror_key = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.mirror_key, std=0.02)
        self.mirror_value = nn.Conv3d(channels, channels, 1, bias=False)
        self.out = nn.Conv3d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BCDHW: Tensor) -> Tensor:
        """Same shape in and out."""
        batch, _, depth, height, width = x_BCDHW.shape
        if depth != self.slices:
            raise ValueError(f"attention was built for {self.slices} slices and got {depth}")
        down, side, columns = self._tiling(height, width)
        margins = (side, side, 0, down)
        normed = F.pad(self.norm(x_BCDHW), margins)
        key, value = self.key_value(normed).chunk(2, dim=1)
        mirror_key = key.flip(-1) + self.mirror_key.view(1, -1, 1, 1, 1)
        mirror_value = self.mirror_value(value.flip(-1))
        keys = torch.cat([self._tokens(key, columns), self._tokens(mirror_key, columns)], dim=-2)
        values = torch.cat([self._tokens(value, columns), self._tokens(mirror_value, columns)], dim=-2)
        mask = None
        if any(margins):
            valid_HW = F.pad(torch.ones(height, width, dtype=torch.bool, device=x_BCDHW.device), margins)
            mask = self._key_mask(valid_HW, batch, columns)
        query = self._tokens(self.query(normed), columns)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        y = self.out(self._untokens(attended, normed.shape, columns))
        return x_BCDHW + y[..., :height, side : side + width]

    def _tiling(self, height: int, width: int) -> tuple[int, int, int]:
        """Rows to add below, columns to add on each side, and the windows' width.

        Equal margins left and right keep the midline at the centre of the tiling. An odd map cannot be
        filled up evenly by even windows; there they are one column wider.
        """
        down = -height % self.window
        columns = self.window + (self.window % 2 == 0 and width % 2 == 1)
        count = -(-width // columns)
        count += (count * columns - width) % 2
        return down, (count * columns - width) // 2, columns

    def _tokens(self, x: Tensor, columns: int) -> Tensor:
        """(B, C, D, H, W) to (B * N, heads, L, C / heads) with L = D * rows * columns of a window."""
        B, C, D, H, W = x.shape
        rows, heads = self.window, self.heads
        x = x.reshape(B, heads, C // heads, D, H // rows, rows, W // columns, columns)
        return x.permute(0, 4, 6, 1, 3, 5, 7, 2).reshape(-1, heads, D * rows * columns, C // heads)

    def _untokens(self, tokens: Tensor, shape: torch.Size, columns: int) -> Tensor:
        B, C, D, H, W = shape
        rows, heads = self.window, self.heads
        x = tokens.reshape(B, H // rows, W // columns, heads, D, rows, columns, C // heads)
        return x.permute(0, 3, 7, 4, 1, 5, 2, 6).reshape(B, C, D, H, W)

    def _key_mask(self, valid_HW: Tensor, batch: int, columns: int) -> Tensor:
        """True where a key may be attended, (B * N, 1, 1, 2 L): padding is nobody's neighbour."""
        H, W = valid_HW.shape
        rows = self.window
        windows = valid_HW.reshape(H // rows, rows, W // columns, columns).transpose(1, 2)
        # Equal margins make the valid region its own mirror image: one mask serves both halves of the keys.
        own = windows.reshape(-1, rows * columns).repeat(1, 2 * self.slices)
        return own.repeat(batch, 1)[:, None, None, :]
