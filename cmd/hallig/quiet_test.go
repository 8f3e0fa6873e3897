// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
)

func TestStatusShowsQuiet(t *testing.T) {
	until := time.Date(2026, 7, 1, 3, 4, 5, 0, time.Local)
	for _, quiet := range []*time.Time{nil, &until} {
		var out bytes.Buffer
		printStatus(&out, admin.Status{QuietUntil: quiet})
		if got := strings.Contains(out.String(), "03:04:05"); got != (quiet != nil) {
			t.Errorf("quiet until %v: shown %v\n%s", quiet, got, out.String())
		}
	}
}
