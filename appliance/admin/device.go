// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"path"
	"strings"

	"hallig/appliance/lan"
	"hallig/appliance/page"
	"hallig/appliance/steward"
)

// This file is the pages of what only the image has: updates, sticks, serial ports, logs, reboot and reset. The steward does all of it.

func (p *Pages) adminRoutes() {
	p.mux.HandleFunc("GET /admin/{$}", p.admin(p.overview))
	p.mux.HandleFunc("GET /admin/users", p.admin(p.people))
	p.mux.HandleFunc("POST /admin/users", p.form(p.changeUser))
	p.mux.HandleFunc("POST /admin/users/token", p.form(p.newToken))
	p.mux.HandleFunc("POST /admin/users/token/drop", p.form(p.dropToken))
	p.mux.HandleFunc("GET /admin/users/sheet", p.admin(p.sheet))
	p.mux.HandleFunc("GET /admin/boxes", p.admin(p.boxes))
	p.mux.HandleFunc("POST /admin/boxes", p.form(p.pair))
	p.mux.HandleFunc("GET /admin/paper", p.admin(p.paper))
	p.mux.HandleFunc("POST /admin/paper", p.form(p.paperForm))
	p.mux.HandleFunc("GET /admin/clock", p.admin(p.clock))
	p.mux.HandleFunc("POST /admin/clock", p.form(p.setClock))
	if p.Backup.State != nil {
		p.mux.HandleFunc("GET /admin/backup", p.admin(p.backup))
		p.mux.HandleFunc("POST /admin/backup", p.form(p.startBackup))
	}
	p.mux.HandleFunc("GET /admin/certificate", p.admin(p.certificate))
	p.mux.HandleFunc("GET /admin/certificate/request", p.admin(p.signingRequest))
	p.mux.HandleFunc("POST /admin/certificate", p.form(p.installCertificate))
	if p.Steward == nil {
		return
	}
	p.mux.HandleFunc("GET /admin/update", p.admin(p.update))
	p.mux.HandleFunc("POST /admin/update", p.form(p.updateForm))
	p.mux.HandleFunc("POST /admin/update/file", p.admin(p.updateFile))
	p.mux.HandleFunc("GET /admin/device", p.admin(p.device))
	p.mux.HandleFunc("POST /admin/device", p.form(p.deviceForm))
	p.mux.HandleFunc("GET /admin/log", p.admin(p.showLog))
}

// machineState asks the steward for a page.
func (p *Pages) machineState(ctx context.Context, v *view) steward.State {
	s, err := p.Steward.State(ctx)
	if err != nil {
		v.Bad = p.said(*v, "ask the steward", err)
	}
	return s
}

type updatePage struct {
	steward.State
	Asked  bool // other boxes were asked
	Offers []UpdateOffer
}

func (p *Pages) update(w http.ResponseWriter, r *http.Request) { p.updatePage(w, r, "", "") }

func (p *Pages) updatePage(w http.ResponseWriter, r *http.Request, good, bad string) {
	v := p.view(r, "Update", "Update", nil)
	s := p.machineState(r.Context(), &v)
	if good != "" || bad != "" {
		v.Good, v.Bad = good, bad
	}
	if err := p.errands.take("update"); err != nil && v.Bad == "" {
		v.Bad = p.said(v, "take update", err)
	}
	switch {
	case s.Update.State == steward.UpdateWriting || p.errands.under("update"):
		v.Refresh = 3
	case s.Update.State == steward.UpdateTrial:
		v.Refresh = 10
	}
	data := updatePage{State: s, Asked: r.FormValue("offers") == "1"}
	if data.Asked {
		var err error
		if data.Offers, err = p.UpdateOffers(r.Context()); err != nil {
			v.Bad = p.said(v, "ask boxes for updates", err)
		}
	}
	v.Data = data
	v.Here = "/admin/update"
	p.render(w, http.StatusOK, "update.html", v)
}

// maxUpload is how much of a refused file is still read.
const maxUpload = 1 << 30

// updateFile streams an upload to the steward: the form's token comes first, the file after it. Nothing is kept here; what is verified is decided there.
func (p *Pages) updateFile(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	parts, err := r.MultipartReader()
	if err != nil || !page.Own(r) {
		p.refuseForm(w, r)
		return
	}
	token, err := nextPart(parts, "csrf")
	if err != nil {
		p.refuseForm(w, r)
		return
	}
	raw, err := io.ReadAll(io.LimitReader(token, 256))
	if err != nil || !tokenFits(r, string(raw)) {
		p.refuseForm(w, r)
		return
	}
	file, err := nextPart(parts, "file")
	if err != nil || file.FileName() == "" {
		p.updatePage(w, r, "", v.T("Bitte erst eine Update-Datei auswählen (Endung .hallig-update).", "Please choose an update file first (its name ends in .hallig-update)."))
		return
	}
	s, _ := sessionOf(r.Context())
	p.Log.Info("update uploaded on the pages", "by", s.User)
	if err := p.Steward.Update(r.Context(), file); err != nil {
		// A browser that is not listened to while it sends shows a broken connection in place of the reason.
		if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxUpload)); err != nil {
			p.Log.Debug("rest of a refused update not read", "err", err)
		}
		p.updatePage(w, r, "", p.said(v, "take update", err))
		return
	}
	http.Redirect(w, r, "/admin/update", http.StatusSeeOther)
}

func nextPart(parts *multipart.Reader, name string) (*multipart.Part, error) {
	part, err := parts.NextRawPart()
	if err != nil {
		return nil, err
	}
	if part.FormName() != name {
		return nil, errors.New("the form is not ours")
	}
	return part, nil
}

func (p *Pages) updateForm(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	v := p.view(r, "", "", nil)
	s, _ := sessionOf(ctx)
	p.Log.Info("update on the pages", "do", r.PostFormValue("do"), "by", s.User)
	switch r.PostFormValue("do") {
	case "stick", "box":
		path, box := r.PostFormValue("path"), r.PostFormValue("box")
		take := func(ctx context.Context) error { return p.Steward.UpdateFrom(ctx, path) }
		if path == "" {
			take = func(ctx context.Context) error { _, err := p.UpdateFrom(ctx, box); return err }
		}
		if err := p.behind(v, "update", take); err != nil {
			p.updatePage(w, r, "", p.said(v, "take update", err))
			return
		}
		http.Redirect(w, r, "/admin/update", http.StatusSeeOther)
	case "start":
		p.leave(w, r, p.Steward.StartUpdate(ctx), "/admin/update", v.T("Die Box startet mit dem neuen System auf Probe. Das dauert ein bis drei Minuten; geht etwas schief, kommt sie von selbst mit dem alten zurück. Bitte eingeschaltet lassen.",
			"The box starts the new system on trial. That takes one to three minutes; if something goes wrong it comes back with the old one by itself. Please leave it switched on."))
	case "back":
		if r.PostFormValue("sure") != "1" {
			p.updatePage(w, r, "", v.T("Bitte das Häkchen setzen.", "Please tick the box."))
			return
		}
		p.leave(w, r, p.Steward.UpdateBack(ctx), "/admin/update", v.T("Die Box startet mit dem vorigen System. Das dauert ein bis zwei Minuten.", "The box starts the system before. That takes one to two minutes."))
	default:
		p.updatePage(w, r, "", v.T("Das kann diese Seite nicht.", "This page cannot do that."))
	}
}

// leave says what happens while the box is away, and leads back.
func (p *Pages) leave(w http.ResponseWriter, r *http.Request, err error, to, text string) {
	v := p.view(r, "Einen Augenblick", "One moment", struct{ To string }{to})
	v.Here = to
	if err != nil {
		v.Bad = p.said(v, "restart", err)
		p.render(w, http.StatusOK, "message.html", v)
		return
	}
	v.Good = text
	p.render(w, http.StatusOK, "leave.html", v)
}

func (p *Pages) device(w http.ResponseWriter, r *http.Request) { p.devicePage(w, r, "", "") }

func (p *Pages) devicePage(w http.ResponseWriter, r *http.Request, good, bad string) {
	v := p.view(r, "Gerät", "Device", nil)
	data := struct {
		steward.State
		LAN *lan.State
	}{State: p.machineState(r.Context(), &v)}
	if good != "" || bad != "" {
		v.Good, v.Bad = good, bad
	}
	if p.LAN != nil {
		if s, ok := p.LAN(); ok {
			data.LAN = &s
		}
	}
	v.Data = data
	p.render(w, http.StatusOK, "device.html", v)
}

func (p *Pages) deviceForm(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	v := p.view(r, "", "", nil)
	s, _ := sessionOf(ctx)
	p.Log.Info("device page", "do", r.PostFormValue("do"), "by", s.User)
	switch r.PostFormValue("do") {
	case "eject":
		if err := p.Steward.Eject(ctx, r.PostFormValue("stick")); err != nil {
			p.devicePage(w, r, "", p.said(v, "eject", err))
			return
		}
		p.devicePage(w, r, v.T("Der Stick kann abgezogen werden.", "The stick can be pulled out."), "")
	case "reboot":
		p.leave(w, r, p.Steward.Reboot(ctx), "/admin/device", v.T("Die Box startet neu. Das dauert ein bis zwei Minuten.", "The box restarts. That takes one to two minutes."))
	case "poweroff":
		p.leave(w, r, p.Steward.PowerOff(ctx), "/status", v.T("Die Box schaltet sich aus. Zum Einschalten den Strom kurz trennen.", "The box switches itself off. To switch it on, cut its power for a moment."))
	case "reset":
		if name := strings.TrimSpace(r.PostFormValue("confirm")); name != p.ServerName {
			p.devicePage(w, r, "", v.T("Es wurde nichts gelöscht: Der Name der Box stimmt nicht. Sie heißt ", "Nothing was erased: the name of the box is wrong. It is called ")+p.ServerName+".")
			return
		}
		p.leave(w, r, p.Steward.FactoryReset(ctx, p.ServerName), "/", v.T("Alles auf der Box wird gelöscht, sie startet als neue Box. Das dauert einige Minuten.", "Everything on the box is erased and it starts as a new one. That takes some minutes."))
	default:
		p.devicePage(w, r, "", v.T("Das kann diese Seite nicht.", "This page cannot do that."))
	}
}

// maxLog is how much of a log a page shows; the rest can be downloaded.
const maxLog = 64 << 10

func (p *Pages) showLog(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	v := p.view(r, "Protokoll", "Log", nil)
	data := struct {
		Names         []string
		Process, Text string
		Cut           bool
	}{Process: path.Base(r.FormValue("process"))}
	var names bytes.Buffer
	if err := p.Steward.Log(ctx, "", &names); err != nil {
		v.Bad = p.said(v, "list logs", err)
	}
	data.Names = strings.Fields(names.String())
	if data.Process == "." {
		data.Process = ""
		if len(data.Names) > 0 {
			data.Process = data.Names[0]
		}
	}
	if data.Process != "" && r.FormValue("download") == "1" {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Content-Disposition", `attachment; filename="hallig-log.txt"`)
		if err := p.Steward.Log(ctx, data.Process, w); err != nil {
			p.Log.Debug("log not sent", "err", err)
		}
		return
	}
	if data.Process != "" {
		end := tail{max: maxLog}
		if err := p.Steward.Log(ctx, data.Process, &end); err != nil {
			v.Bad = p.said(v, "read log", err)
		}
		data.Text, data.Cut = end.text()
	}
	v.Data = data
	p.render(w, http.StatusOK, "log.html", v)
}

// tail keeps the end of what is written to it, in whole lines.
type tail struct {
	max int
	b   []byte
	cut bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*t.max {
		t.b = append(t.b[:0], t.b[len(t.b)-t.max:]...)
		t.cut = true
	}
	return len(p), nil
}

func (t *tail) text() (string, bool) {
	b := t.b
	if len(b) > t.max {
		b, t.cut = b[len(b)-t.max:], true
	}
	if t.cut {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return strings.ToValidUTF8(string(b), "?"), t.cut
}
