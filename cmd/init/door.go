// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
)

// door serves the steward's socket until the box ends. Root and the homeserver may come in, nobody else: the file's group says so, and the kernel is
// asked again who is there.
func (b *box) door() error {
	name := filepath.Join(b.at.Run, filepath.Base(steward.Socket))
	os.Remove(name)
	l, err := net.Listen("unix", name)
	if err != nil {
		return fmt.Errorf("open the steward's door: %w", err)
	}
	if err := errors.Join(os.Chown(name, 0, uidHallig), os.Chmod(name, 0o660)); err != nil && os.Getuid() == 0 {
		l.Close()
		return fmt.Errorf("open the steward's door: %w", err)
	}
	srv := &http.Server{
		Handler: b.handler(), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 8 << 10,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peer(c))
		},
	}
	stop := context.AfterFunc(b.running, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type peerKey struct{}

// peer is the user id at the other end of a connection; -1 when the kernel does not say.
func peer(c net.Conn) int {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return -1
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1
	}
	uid := -1
	if err := raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(cred.Uid)
		}
	}); err != nil {
		return -1
	}
	return uid
}

// allowed says who may speak to the steward.
func allowed(uid int) bool { return uid == 0 || uid == uidHallig || uid == os.Getuid() }

func (b *box) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(b.state())
	})
	act := func(pattern string, do func(r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := do(r); err != nil {
				b.log.Printf("%s %s: refused: %v", r.Method, r.URL.Path, err)
				refuse(w, err)
				return
			}
			w.WriteHeader(http.StatusAccepted)
		})
	}
	act("POST /update", func(r *http.Request) error {
		if path := r.URL.Query().Get("path"); path != "" {
			return b.installPath(r.Context(), path)
		}
		return b.install(r.Context(), r.Body)
	})
	act("POST /update/start", func(*http.Request) error { return b.startTrial() })
	act("POST /update/back", func(r *http.Request) error { return b.goBack(r.Context()) })
	act("POST /reboot", func(*http.Request) error { return b.ask(ending{kind: restart, why: "asked by the homeserver"}) })
	act("POST /poweroff", func(*http.Request) error { return b.ask(ending{kind: powerOff, why: "asked by the homeserver"}) })
	act("POST /factory-reset", func(r *http.Request) error {
		var c steward.Confirm
		if err := steward.Decode(r.Body, &c); err != nil {
			return err
		}
		if err := b.meant(c.Confirm); err != nil {
			return err
		}
		return b.ask(ending{kind: reset, why: "factory reset asked on the page"})
	})
	act("PUT /clock", func(r *http.Request) error {
		var t steward.Time
		if err := steward.Decode(r.Body, &t); err != nil {
			return err
		}
		if t.Time.Before(earliest) {
			return steward.Text{De: "Diese Zeit liegt vor der ersten Version von Hallig.", En: "This time is before the first version of Hallig."}
		}
		if err := b.setClock(t.Time); err != nil {
			return err
		}
		b.log.Printf("the clock was set to %s", t.Time.UTC().Format(time.RFC3339))
		return nil
	})
	act("PUT /led", func(r *http.Request) error {
		var l steward.LED
		if err := steward.Decode(r.Body, &l); err != nil {
			return err
		}
		if l.State != steward.LEDOK && l.State != steward.LEDLook && l.State != steward.LEDTrouble {
			return fmt.Errorf("state %q: want %q, %q or %q", l.State, steward.LEDOK, steward.LEDLook, steward.LEDTrouble)
		}
		b.mu.Lock()
		b.asked = l.State
		b.mu.Unlock()
		return nil
	})
	act("POST /stick/{name}/eject", func(r *http.Request) error { return b.eject(r.PathValue("name")) })
	act("PUT /stick/{name}/write", func(r *http.Request) error { return b.writable(r.PathValue("name")) })
	mux.HandleFunc("GET /update/file", b.giveUpdate)
	mux.HandleFunc("GET /log", b.giveLog)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if uid, ok := r.Context().Value(peerKey{}).(int); !ok || !allowed(uid) {
			refuse(w, steward.Text{De: "Das darf nur der Nachrichtendienst der Box.", En: "Only the box's own message service may do this."})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// refuse answers with a sentence.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusConflict
	t := sentence(err, "Das ging nicht.", "That did not work.")
	if errors.Is(err, fs.ErrNotExist) {
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(steward.Answer{Error: t})
}

// giveLog answers with the lines of one log, or the names of all.
func (b *box) giveLog(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	name := r.URL.Query().Get("process")
	if name == "" {
		fmt.Fprintln(w, strings.Join(b.rings.Names(), "\n"))
		return
	}
	if err := b.rings.Copy(w, name); err != nil {
		refuse(w, err)
	}
}
