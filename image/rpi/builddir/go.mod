// SPDX-License-Identifier: EUPL-1.2

// What the image takes from others besides Go code: pinned, with its checksums in go.sum.
module hallig/image/rpi/builddir

go 1.26.0

require (
	github.com/gokrazy/firmware v0.0.0-20260522070551-527ce0ed43cf
	github.com/gokrazy/kernel.rpi v0.0.0-20251127164438-9778ec0261de
)
