// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/tools/testpeer"
)

const (
	hubName = "hub.test"
	farName = "far.test"
	inARow  = 3 // transactions to one box, so that their order shows
)

// farServer is the server that writes to the boxes: it shows its keys, and sends transactions to nodes of the hub.
type farServer struct {
	federation.Local
	listener net.Listener
	client   *http.Client
	world    []string // addresses of the nodes
	gone     []atomic.Bool
	next     atomic.Int64
	answered atomic.Int64 // with 200
}

func newFar(ca *testpeer.CA, dir string, world []string) (*farServer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(dir, "far.crt"), filepath.Join(dir, "far.key")
	if err := ca.Issue(farName, certFile, keyFile); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	f := &farServer{Local: federation.Local{Server: farName, Key: event.Key{ID: "ed25519:far", Private: key}}, world: world, gone: make([]atomic.Bool, len(world))}
	locals := federation.Only(f.Local)
	notary := federation.NewNotary(federation.HandlerConfig{Locals: locals, Ring: federation.NewKeyRing(federation.KeyRingConfig{Locals: locals})})
	if f.listener, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}}); err != nil {
		return nil, err
	}
	go http.Serve(f.listener, notary) // ends with the program
	f.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			d := tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: host}}
			return d.DialContext(ctx, network, f.node())
		}}}
	return f, nil
}

// node is any node that is there.
func (f *farServer) node() string {
	for {
		n := int(f.next.Add(1)) % len(f.world)
		if !f.gone[n].Load() {
			return f.world[n]
		}
	}
}

// send sends one transaction, again until it is answered 200, as servers do.
func (f *farServer) send(ctx context.Context, box string, n int64) error {
	uri := fmt.Sprintf("/_matrix/federation/v1/send/%d", n)
	body := fmt.Appendf(nil, `{"origin":%q,"origin_server_ts":%d,"pdus":[],"edus":[{"edu_type":"m.presence","content":{"n":%d,"filler":"%01500d"}}]}`, f.Server, time.Now().UnixMilli(), n, n)
	for ctx.Err() == nil {
		a, err := federation.SignRequest(f.Local, box, "PUT", uri, body)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, "PUT", "https://"+box+uri, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", a.String())
		resp, err := f.client.Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				f.answered.Add(1)
				return nil
			}
			if resp.StatusCode != http.StatusTooManyRequests {
				return fmt.Errorf("%s was answered %s", uri, resp.Status)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ctx.Err()
}

// flood sends at a rate until more says no, to one box after the other; of two for the same box the second waits until the first is answered, as with servers. It gives how long answers took, sorted.
func (f *farServer) flood(ctx context.Context, boxes int, first int64, rate float64, more func(d time.Duration) bool) (took []time.Duration, err error) {
	var mu sync.Mutex
	var errs error
	var wg sync.WaitGroup
	begin := time.Now()
	answered := make(map[int]chan struct{}) // by box: the newest one's
	for i := int64(0); ; i++ {
		d := time.Duration(float64(i) / rate * float64(time.Second))
		if !more(d) || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Until(begin.Add(d)))
		n := first + i
		box := int(n/inARow) % boxes
		before, mine := answered[box], make(chan struct{})
		answered[box] = mine
		wg.Go(func() {
			defer close(mine)
			if before != nil {
				<-before
			}
			sent := time.Now()
			err := f.send(ctx, boxName(box), n)
			mu.Lock()
			defer mu.Unlock()
			took, errs = append(took, time.Since(sent)), errors.Join(errs, err)
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took, errs
}

// ask asks boxes, one question each, some at a time. It gives how long answers took, sorted, and how many did not come from the box.
func (f *farServer) ask(ctx context.Context, n, boxes int) (took []time.Duration, instead int, err error) {
	var mu sync.Mutex
	err = many(8, n, func(i int) error {
		box := boxName(i * boxes / n)
		const uri = "/_matrix/federation/v1/event/$x"
		a, err := federation.SignRequest(f.Local, box, "GET", uri, nil)
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+box+uri, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", a.String())
		asked := time.Now()
		resp, err := f.client.Do(req)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		mu.Lock()
		defer mu.Unlock()
		took = append(took, time.Since(asked))
		if !bytes.Contains(text, []byte(box)) || resp.StatusCode != http.StatusOK {
			instead++
		}
		return err
	})
	slices.Sort(took)
	return took, instead, err
}
