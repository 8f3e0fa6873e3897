// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// FilesPath takes a PUT of Files.
const FilesPath = "/_hallig/hub/v1/files"

// Files lists files of a box's users that people of other servers may ask for, the newest first. The hub fetches those that it lacks, as far as its bounds and the line allow, to give them
// while the box is away. It takes the place of what was listed before.
type Files struct {
	Files []File `json:"files"`
}

// File is one of them.
type File struct {
	ID    string `json:"id"`    // of mxc://BOX/ID
	Bytes int64  `json:"bytes"` // its size
	At    int64  `json:"at"`    // when it was uploaded, by the box's clock, milliseconds since 1970
}

// Bounds of a Files.
const (
	MaxFiles      = 2000
	MaxFilesBytes = 1 << 20
)

// ReadFiles reads a Files and refuses what no box says.
func ReadFiles(raw []byte) (Files, error) {
	var l Files
	if len(raw) > MaxFilesBytes {
		return l, errors.New("read files: too long")
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fmt.Errorf("read files: %w", err)
	}
	if len(l.Files) > MaxFiles {
		return l, fmt.Errorf("read files: more than %d", MaxFiles)
	}
	for _, f := range l.Files {
		if !IsMedia(f.ID) || f.Bytes < 0 {
			return l, fmt.Errorf("read files: %.40q is no file", f.ID)
		}
	}
	return l, nil
}

// IsMedia says whether a text is a media id: what comes after the server's name in mxc://.
// https://spec.matrix.org/v1.16/client-server-api/#security-considerations-5
func IsMedia(id string) bool {
	return id != "" && len(id) <= 255 && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}
