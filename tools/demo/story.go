// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"math/rand/v2"
)

// story makes names and texts; the same seed tells the same story.
type story struct{ r *rand.Rand }

func newStory(seed uint64) *story { return &story{rand.New(rand.NewPCG(seed, 0x48616c6c6967))} }

var (
	names   = []string{"antje", "boy", "carsten", "edda", "fiete", "gesa", "hauke", "inken", "jens", "karen", "lorenz", "momme", "nele", "ove", "petra", "rieke", "telse", "uwe", "wiebke"}
	islands = []string{"Hooge", "Langeneß", "Oland", "Gröde", "Nordmarsch", "Habel", "Süderoog", "Südfall", "Norderoog", "Pellworm"}
	units   = []string{"Trupp 1", "Trupp 2", "Pumpengruppe", "Bootstrupp", "Deichwache", "Sanitätsdienst", "Stab", "Verpflegung"}
	acts    = []string{"meldet", "bestätigt", "fragt", "berichtet", "bittet um Antwort:"}
	things  = []string{"Pegel %d cm, steigend", "%d Sandsäcke verbaut", "%d Personen auf der Warft", "Diesel reicht für %d Stunden", "Ablösung in %d Minuten", "Wind %d Knoten aus Nordwest", "%d Schafe in Sicherheit", "Pumpe %d läuft wieder", "Steg %d ist überspült", "%d Feldbetten gebraucht"}
)

func (s *story) pick(from []string) string { return from[s.r.IntN(len(from))] }

// distinct picks n different entries.
func (s *story) distinct(from []string, n int) []string {
	var out []string
	for _, i := range s.r.Perm(len(from))[:n] {
		out = append(out, from[i])
	}
	return out
}

// text is the n-th message: no two of one story are equal.
func (s *story) text(n int) string {
	return fmt.Sprintf("%s %s %s (%d)", s.pick(units), s.pick(acts), fmt.Sprintf(s.pick(things), 2+s.r.IntN(97)), n)
}
