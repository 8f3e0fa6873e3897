// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

const crossCompiler = "aarch64-linux-gnu-gcc"

// debianPackages says which package brings a program.
var debianPackages = map[string]string{
	"mkfs.fat": "dosfstools", "mcopy": "mtools", "mmd": "mtools", "mksquashfs": "squashfs-tools", "unsquashfs": "squashfs-tools", "sfdisk": "fdisk", "zstd": "zstd", "gcc": "gcc libc6-dev",
	crossCompiler: "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
}

// checkTools says at once what the system must bring, and the one command that brings it.
func checkTools(wanted []string) error {
	needed := []string{"mkfs.fat", "mcopy", "mmd", "mksquashfs", "unsquashfs", "sfdisk", "zstd"}
	for _, name := range wanted {
		switch b := boards[name]; {
		case b.goarch == "arm64" && runtime.GOARCH != "arm64":
			needed = append(needed, crossCompiler)
		case b.goarch == "amd64" && runtime.GOARCH != "amd64":
			return errors.New("the image for amd64 is built on an amd64 machine: the C compiler for it is the system's own")
		default:
			needed = append(needed, "gcc")
		}
	}
	var packages []string
	for _, tool := range needed {
		if _, err := exec.LookPath(tool); err != nil {
			packages = append(packages, debianPackages[tool])
		}
	}
	if len(packages) == 0 {
		return nil
	}
	slices.Sort(packages)
	return fmt.Errorf("programs for file systems or a compiler are missing. Install them with:\n    sudo apt-get install -y %s", strings.Join(slices.Compact(packages), " "))
}
