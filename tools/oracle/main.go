// SPDX-License-Identifier: EUPL-1.2

// Command oracle plays random rooms of every version and compares what our law says with what others say: whether an event is authorised, by
// its auth events and by the state before it; which state holds where branches meet; event ids, redaction, content hashes, signatures and
// canonical JSON. The others are maunium.net/go/mautrix, github.com/matrix-org/gomatrixserverlib, and a literal transcription of
// the specification (literal.go, law.go, resolution.go) that shares nothing with the product and decides.
//
// Rooms hold forks and merges, bans, fights for power, every kind of join, third-party invites, clocks that jump, and forgeries: wrong hashes
// and signatures, missing, foreign, doubled, stale and rejected auth events, and states that hold what was rejected. A seed is a room.
//
// The libraries are not right everywhere. What is known of that stands in faults.go, each case with the sentence of the specification, and for
// state resolution in gmsltwin.go, where the library's faults are switches of a twin that must give exactly what the library gives. Known
// faults are counted by case and printed; anything else is a difference, and the exit code is 1.
//
// A module of its own, so that none of this is ever linked into the box.
package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"

	"maunium.net/go/mautrix/federation/pdu"
)

func main() {
	n := flag.Uint64("n", 20000, "how many rooms")
	seed := flag.Uint64("seed", 1, "seed of the first room; the others count on")
	show := flag.Int("show", 10, "how many differences to print")
	first := flag.Bool("first", false, "stop at the first difference")
	graph := flag.Bool("graph", false, "print the whole room of each difference shown")
	flag.Parse()
	t := run(*seed, *n, *first)
	for i, d := range t.differences {
		if i < *show {
			fmt.Printf("seed %d: %s\n", d.judge.seed, d)
			if *graph {
				d.judge.print(d.states)
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(t.faults)) {
		fmt.Printf("known fault, %s: %d\n", k, t.faults[k])
	}
	fmt.Printf("seeds %d to %d, %d events, %d resolutions, %d comparisons\n", *seed, *seed+*n-1, t.events, t.resolutions, t.compared)
	fmt.Printf("oracle: %d graphs, %d differences\n", *n, len(t.differences))
	if len(t.differences) > 0 {
		os.Exit(1)
	}
}

// total is what many rooms came to.
type total struct {
	differences                   []*difference
	faults                        map[string]int
	compared, events, resolutions int
}

// run plays n rooms on all processors.
func run(seed, n uint64, first bool) total {
	pdu.UseInternalMetaForGetEventID = true // an id is computed once, where ids are compared, and then told
	t := total{faults: map[string]int{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan uint64)
	for range runtime.NumCPU() {
		wg.Go(func() {
			for s := range work {
				j := play(s)
				mu.Lock()
				t.differences = append(t.differences, j.differences...)
				t.compared += j.compared
				t.events += len(j.list)
				t.resolutions += j.resolutions
				for k, c := range j.faults {
					t.faults[k] += c
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		mu.Lock()
		stop := first && len(t.differences) > 0
		mu.Unlock()
		if stop {
			break
		}
		work <- seed + i
	}
	close(work)
	wg.Wait()
	return t
}
