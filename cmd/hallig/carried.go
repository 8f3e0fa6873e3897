// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"hallig/appliance/admin"
)

// printCarried says what goes by boxes in between.
func printCarried(out io.Writer, c admin.Carried) {
	for _, m := range c.Mail {
		fmt.Fprintf(out, "  %s to %s by boxes in between, without an answer yet, the oldest for %s\n", count(m.Count, "message", "messages"), m.Box, age(m.Oldest))
	}
	for _, p := range c.For {
		fmt.Fprintf(out, "  carries for %s: %s, %d kB, the oldest for %s\n", p.Box, count(p.Count, "sealed parcel", "sealed parcels"), (p.Bytes+999)/1000, age(p.Oldest))
	}
	if c.Most > 0 && c.Bytes > c.Most*9/10 {
		fmt.Fprintf(out, "  has no more room to carry for others: %d of %d MB in use\n", c.Bytes>>20, c.Most>>20)
	}
	for _, why := range slices.Sorted(maps.Keys(c.Refused)) {
		fmt.Fprintf(out, "  %s of other boxes not taken: %s\n", count(c.Refused[why], "parcel", "parcels"), strings.ReplaceAll(why, "_", " "))
	}
}

func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
