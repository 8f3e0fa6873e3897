// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"regexp"
	"strings"
	"testing"

	"hallig/sync/parcel/prose"
)

const heldOut = "../bench/testdata/sentences_de.txt"

var word = regexp.MustCompile(`[\p{L}\p{N}]+`)

// runs are all sequences of six words of a text.
func runs(text string) map[string]bool {
	words := word.FindAllString(strings.ToLower(text), -1)
	all := make(map[string]bool)
	for i := range len(words) - 5 {
		all[strings.Join(words[i:i+6], " ")] = true
	}
	return all
}

// TestHeldOut: what the bench measures with was not trained on.
func TestHeldOut(t *testing.T) {
	trained := make(map[string]bool)
	for _, name := range []string{"operations.txt", "vocabulary_de.txt"} {
		lines, err := read(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range lines {
			trained[l] = true
			for r := range runs(l) {
				trained[r] = true
			}
		}
	}
	sentences, err := read(heldOut)
	if err != nil {
		t.Fatal(err)
	}
	if len(sentences) < 200 {
		t.Errorf("%d held-out sentences, want 200", len(sentences))
	}
	seen := make(map[string]bool)
	for _, s := range sentences {
		if n := len([]rune(s)); n != 100 {
			t.Errorf("%d characters, want 100: %s", n, s)
		}
		if seen[s] || trained[s] {
			t.Errorf("there twice, or trained on: %s", s)
		}
		seen[s] = true
		for r := range runs(s) {
			if trained[r] {
				t.Errorf("%q of %q was trained on", r, s)
			}
		}
	}
}

// TestShippedModel: the committed model is worth its place.
func TestShippedModel(t *testing.T) {
	m, err := prose.Load()
	if err != nil {
		t.Fatal(err)
	}
	sentences, err := read(heldOut)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, s := range sentences {
		code, ok := m.Encode(s, len(s))
		if !ok {
			t.Errorf("not shorter than itself: %s", s)
			continue
		}
		if back, err := m.Decode(code, 1000); err != nil || back != s {
			t.Errorf("came out as %q, %v: %s", back, err, s)
		}
		total += len(code)
	}
	if mean := float64(total) / float64(len(sentences)); mean > 36 {
		t.Errorf("100 characters take %.1f bytes", mean)
	}
}
