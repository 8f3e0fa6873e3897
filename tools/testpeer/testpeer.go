// SPDX-License-Identifier: EUPL-1.2

// Package testpeer runs a central server that nobody here wrote, as a process of its own: Dendrite, with SQLite, on loopback,
// behind a certificate of a private CA, and behind a link that can be cut.
//
// It only starts the program that tools/dendrite has built; nothing of Dendrite is linked here. What it starts it ends, by pid.
package testpeer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"text/template"
	"time"

	"hallig/tools/testport"
)

// Options say how a peer is to run. Dir and CA must be set.
type Options struct {
	Dir     string // everything it writes; must exist
	CA      *CA
	Program string // path of dendrite; empty: what tools/dendrite built, which is built now if it is not there
	Retries int    // failures after which it speaks to a server no more until it hears from it; 0: 16 as Dendrite ships, some 18 hours
}

// Peer is a running central server.
type Peer struct {
	Name   string // its server name: 127.0.0.1:PORT, where PORT is the link's
	Client string // base URL of its Client-Server API, which no cut touches
	Secret string // registration shared secret
	Link   *Link  // between it and everybody who speaks to it as a server

	dir, program, caFile string
	client, federation   string // HOST:PORT, the same after each restart
	retries              int

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts a peer on free ports and waits until it answers.
func Start(ctx context.Context, o Options) (*Peer, error) {
	program := o.Program
	if program == "" {
		var err error
		if program, err = Build(ctx); err != nil {
			return nil, err
		}
	}
	p := &Peer{dir: o.Dir, program: program, caFile: o.CA.File, Secret: "loopback only", retries: cmp.Or(o.Retries, 16)}
	for _, addr := range []*string{&p.client, &p.federation} {
		var err error
		if *addr, err = testport.Take(); err != nil {
			return nil, err
		}
	}
	p.Client = "http://" + p.client
	link, err := NewLink(p.federation)
	if err != nil {
		return nil, err
	}
	p.Link, p.Name = link, link.Addr()
	if err := p.prepare(o.CA); err != nil {
		link.Close()
		return nil, fmt.Errorf("prepare test peer: %w", err)
	}
	if err := p.Restart(ctx); err != nil {
		link.Close()
		return nil, err
	}
	return p, nil
}

// Build gives the path of the program, after building it if need be. That takes a minute or two, once.
func Build(ctx context.Context) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "tools", "dendrite")
	program := filepath.Join(dir, "out", "dendrite")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	out, err := exec.CommandContext(ctx, "make", "-C", dir, "build").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the test peer (make -C tools/dendrite build): %w\n%s", err, out)
	}
	return program, nil
}

// moduleRoot looks for go.mod of the box above the working directory.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(raw, []byte("module hallig\n")) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("the module's root is not above the working directory")
		}
		dir = up
	}
}

// prepare writes certificate, signing key and configuration.
func (p *Peer) prepare(ca *CA) error {
	if err := ca.Issue("127.0.0.1", p.path("server.crt"), p.path("server.key")); err != nil {
		return err
	}
	if err := os.WriteFile(p.path("matrix_key.pem"), signingKey(), 0o600); err != nil {
		return err
	}
	var b bytes.Buffer
	err := config.Execute(&b, map[string]any{"Name": p.Name, "Dir": p.dir, "Secret": p.Secret, "Retries": p.retries})
	if err != nil {
		return err
	}
	return os.WriteFile(p.path("dendrite.yaml"), b.Bytes(), 0o600)
}

func (p *Peer) path(name string) string { return filepath.Join(p.dir, name) }

// signingKey makes a Matrix signing key in the form that Dendrite reads.
func signingKey() []byte {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	var id [3]byte
	_, _ = rand.Read(id[:])
	return pem.EncodeToMemory(&pem.Block{Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": "ed25519:" + hex.EncodeToString(id[:])}, Bytes: seed})
}

// Restart starts the process, again after Stop, with the same data, and waits until it answers.
func (p *Peer) Restart(ctx context.Context) error {
	log, err := os.OpenFile(p.path("log.txt"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start test peer: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(p.program, "-config", p.path("dendrite.yaml"),
		"-http-bind-address", p.client, "-https-bind-address", p.federation,
		"-tls-cert", p.path("server.crt"), "-tls-key", p.path("server.key"))
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+p.caFile, "SSL_CERT_DIR="+p.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it must not outlive a test that was killed
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start test peer: %w", err)
	}
	done := make(chan struct{})
	go func() { // ends with the process, which Stop ends
		_ = cmd.Wait()
		close(done)
	}()
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	if err := p.ready(ctx, done); err != nil {
		_ = p.Stop()
		return err
	}
	return nil
}

// ready waits until the peer answers.
func (p *Peer) ready(ctx context.Context, done chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.Client+"/_matrix/client/versions", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-done:
			return fmt.Errorf("test peer ended at once:\n%s", p.LogTail(2000))
		case <-ctx.Done():
			return fmt.Errorf("test peer does not answer: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// LogTail gives the last n bytes of what the process has logged.
func (p *Peer) LogTail(n int) string {
	log, _ := os.ReadFile(p.path("log.txt")) // what there is of it
	return string(log[max(0, len(log)-n):])
}

// PID is the process's id, 0 when it does not run.
func (p *Peer) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Stop ends the process; the data stay.
func (p *Peer) Stop() error {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.cmd = nil
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop test peer: %w", err)
	}
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		_ = cmd.Process.Kill()
		<-done
	}
	return nil
}

// Kill ends the process as a power cut would; the data stay.
func (p *Peer) Kill() error {
	p.mu.Lock()
	cmd, done := p.cmd, p.done
	p.cmd = nil
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill test peer: %w", err)
	}
	<-done
	return nil
}

// Close stops the process and the link.
func (p *Peer) Close() error {
	err := p.Stop()
	p.Link.Close()
	return err
}

// config is Dendrite's configuration: SQLite, loopback allowed, no limits on rates, no statistics, no look-ups elsewhere.
var config = template.Must(template.New("dendrite.yaml").Parse(`version: 2
global:
  server_name: "{{.Name}}"
  private_key: {{.Dir}}/matrix_key.pem
  key_validity_period: 168h0m0s
  cache: {max_size_estimated: 64mb, max_age: 1h}
  trusted_third_party_id_servers: []
  disable_federation: false
  presence: {enable_inbound: false, enable_outbound: false}
  report_stats: {enabled: false}
  server_notices: {enabled: false}
  jetstream: {addresses: [], storage_path: {{.Dir}}, topic_prefix: Dendrite}
  metrics: {enabled: false}
  dns_cache: {enabled: false}
app_service_api: {config_files: []}
client_api:
  registration_disabled: true
  guests_disabled: true
  registration_shared_secret: "{{.Secret}}"
  rate_limiting: {enabled: false}
federation_api:
  database: {connection_string: "file:{{.Dir}}/federationapi.db"}
  send_max_retries: {{.Retries}}
  disable_tls_validation: false
  key_perspectives: []
  prefer_direct_fetch: true
  deny_networks: []
  allow_networks: ["0.0.0.0/0"]
key_server:
  database: {connection_string: "file:{{.Dir}}/keyserver.db"}
media_api:
  database: {connection_string: "file:{{.Dir}}/mediaapi.db"}
  base_path: {{.Dir}}/media
  max_file_size_bytes: 10485760
mscs:
  mscs: []
  database: {connection_string: "file:{{.Dir}}/mscs.db"}
relay_api:
  database: {connection_string: "file:{{.Dir}}/relayapi.db"}
room_server:
  database: {connection_string: "file:{{.Dir}}/roomserver.db"}
sync_api:
  database: {connection_string: "file:{{.Dir}}/syncapi.db"}
  search: {enabled: false, index_path: {{.Dir}}/searchindex}
user_api:
  bcrypt_cost: 4
  account_database: {connection_string: "file:{{.Dir}}/userapi.db"}
logging:
- {type: std, level: info}
`))
