// SPDX-License-Identifier: EUPL-1.2

// What the image takes from others besides Go code: pinned, with its checksums in go.sum.
module hallig/image/arm64/builddir

go 1.26.0

require github.com/gokrazy/kernel.arm64 v0.0.0-20260705071517-37841c4d6ff1
