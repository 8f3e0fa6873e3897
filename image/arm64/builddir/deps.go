// SPDX-License-Identifier: EUPL-1.2

//go:build tools

// Package deps names what goes into the image, so that "go mod tidy" keeps it pinned.
package deps

import (
	_ "github.com/gokrazy/kernel.arm64"
)
