// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// This file is what takes longer than a browser should wait, and the pages of backup and certificate.

// soon is how long a page waits for an errand before it shows that it is under way.
const soon = 1500 * time.Millisecond

// errands remembers what runs behind the pages and how it ended. The zero value works.
type errands struct {
	mu      sync.Mutex
	running string
	err     map[string]error // of those that ended after their page had been answered; told once
}

func (e *errands) under(what string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running == what
}

func (e *errands) take(what string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.err[what]
	delete(e.err, what)
	return err
}

func (e *errands) note(what, running string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = running
	if err == nil {
		delete(e.err, what)
		return
	}
	if e.err == nil {
		e.err = map[string]error{}
	}
	e.err[what] = err
}

// behind starts f. The error of what ends soon is given back, that of what ends later is shown when its page is asked for again.
func (p *Pages) behind(v view, what string, f func(context.Context) error) error {
	done := make(chan error, 1)
	started := p.Errand(func(ctx context.Context) {
		p.errands.note(what, what, nil)
		err := f(ctx)
		p.errands.note(what, "", err)
		done <- err
	})
	if !started {
		return &Refusal{Text: v.T("Die Box ist noch mit etwas anderem beschäftigt (Update oder Sicherung). Bitte einen Augenblick warten.", "The box is busy with something else (update or backup). Please wait a moment.")}
	}
	select {
	case err := <-done:
		p.errands.note(what, "", nil)
		return err
	case <-time.After(soon):
		return nil
	}
}

func (p *Pages) backup(w http.ResponseWriter, r *http.Request) { p.backupPage(w, r, "", "") }

func (p *Pages) backupPage(w http.ResponseWriter, r *http.Request, good, bad string) {
	v := p.view(r, "Sicherung", "Backup", nil)
	v.Good, v.Bad = good, bad
	s, err := p.Backup.State(r.Context())
	if err != nil {
		v.Bad = p.said(v, "backup", err)
	}
	if err := p.errands.take("backup"); err != nil && v.Bad == "" {
		v.Bad = p.said(v, "backup", err)
	}
	if s.Running = s.Running || p.errands.under("backup"); s.Running {
		v.Refresh = 3
	}
	v.Data = struct {
		BackupState
		Age time.Duration
	}{s, p.Now().Sub(s.Last)}
	p.render(w, http.StatusOK, "backup.html", v)
}

func (p *Pages) startBackup(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	if err := p.behind(v, "backup", p.Backup.Start); err != nil {
		p.backupPage(w, r, "", p.said(v, "back up", err))
		return
	}
	if p.errands.under("backup") {
		p.backupPage(w, r, "", "")
		return
	}
	p.backupPage(w, r, v.T("Die Sicherung ist gemacht und geprüft.", "The backup is made and verified."), "")
}

func (p *Pages) certificate(w http.ResponseWriter, r *http.Request) { p.certificatePage(w, r, "", "") }

func (p *Pages) certificatePage(w http.ResponseWriter, r *http.Request, good, bad string) {
	v := p.view(r, "Zertifikat", "Certificate", nil)
	v.Good, v.Bad = good, bad
	s, err := p.Status(r.Context())
	if err != nil {
		v.Bad = p.said(v, "status", err)
	}
	v.Data = s.Certificate
	p.render(w, http.StatusOK, "certificate.html", v)
}

func (p *Pages) signingRequest(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	pem, err := p.SigningRequest(r.Context())
	if err != nil {
		p.certificatePage(w, r, "", p.said(v, "make signing request", err))
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Content-Disposition", `attachment; filename="hallig-request.pem"`)
	if _, err := w.Write([]byte(pem)); err != nil {
		p.Log.Debug("signing request not sent", "err", err)
	}
}

func (p *Pages) installCertificate(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	if _, err := p.InstallCertificate(r.Context(), r.PostFormValue("pem")); err != nil {
		p.certificatePage(w, r, "", p.said(v, "install certificate", err))
		return
	}
	p.certificatePage(w, r, v.T("Das Zertifikat ist eingespielt.", "The certificate is installed."), "")
}
