// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// childEnv makes the test binary a process that writes to a spool and says, after each answer, what it was told.
const childEnv = "HALLIG_SPOOL_CHILD" // where the spool is

func TestMain(m *testing.M) {
	if at := os.Getenv(childEnv); at != "" {
		if err := child(at, os.Getenv(childEnv+"_RUN")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	stopCluster()
	os.Exit(code)
}

func child(at, run string) error {
	ctx := context.Background()
	s, err := openAt(ctx, at)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	const writers = 4
	errs := make(chan error, writers+1)
	for w := range writers {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%s-%d-%d", run, w, i)
				if _, err := s.Append(ctx, Queue{Box: "a.example", Other: fmt.Sprint("server", w%2), In: true}, t0, request(key)); err != nil {
					errs <- err
					return
				}
				say("kept %s", key)
			}
		}()
	}
	go func() {
		for {
			id, _, err := s.TakeKey(ctx, "a.example", "@u", "D", "a")
			if err != nil || id == "" {
				errs <- fmt.Errorf("%q, %w", id, err)
				return
			}
			say("took %s", id)
		}
	}()
	return <-errs
}

// killed lets processes work on a spool and kills each at a random moment: what was answered is there, once and in order; no one-time key goes twice.
func killed(t *testing.T, p place, at string, runs int) {
	s := with(t, p, "a.example")
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	took := map[string]bool{}
	kept := map[string]bool{}
	for run := range runs {
		m := map[string]json.RawMessage{}
		for i := range 3000 {
			m[fmt.Sprintf("a:%d-%d", run, i)] = json.RawMessage("1")
		}
		must(t, s.PutKeys(t.Context(), "a.example", "@u", "D", m))
		if !p.nodes() {
			must(t, s.Close())
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+at, fmt.Sprintf("%s_RUN=%d", childEnv, run))
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for left := random.IntN(200); lines.Scan(); left-- {
			what, name, _ := strings.Cut(lines.Text(), " ")
			switch {
			case what == "kept":
				kept[name] = true
			case took[name]:
				t.Errorf("the key %s went twice", name)
			default:
				took[name] = true
			}
			if left == 0 {
				must(t, cmd.Process.Kill()) // what is in the pipe was said before: it is read to its end
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the process was to be killed at work: %v", err)
		}
		if !p.nodes() {
			s = p.open(t, Limits{})
		}
		there := map[string]int{}
		for _, server := range []string{"server0", "server1"} {
			next := map[string]int{}
			for _, k := range keys(all(t, s, Queue{Box: "a.example", Other: server, In: true})) {
				there[k]++
				var r, w, i int
				fmt.Sscanf(k, "%d-%d-%d", &r, &w, &i)
				who := fmt.Sprint(r, w)
				if next[who] != i {
					t.Errorf("%s came where %d was due", k, next[who])
				}
				next[who]++
			}
		}
		for k := range kept {
			if there[k] != 1 {
				t.Errorf("run %d: %s was answered and is there %d times", run, k, there[k])
			}
		}
		taken, err := s.TakenKeys(t.Context(), "a.example", 0, 1<<20)
		must(t, err)
		if len(taken) < len(took) {
			t.Errorf("run %d: %d keys went, %d are known as taken", run, len(took), len(taken))
		}
	}
	t.Logf("%d requests and %d keys were answered in %d runs", len(kept), len(took), runs)
	if len(kept) < runs || len(took) == 0 {
		t.Error("the processes did nothing")
	}
}

// openAt opens the spool that a path or an address names.
func openAt(ctx context.Context, at string) (Spool, error) {
	if strings.Contains(at, "://") {
		return Connect(ctx, at, Limits{}, nil)
	}
	return Open(at, Limits{}, nil)
}
