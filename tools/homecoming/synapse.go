// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// synapseEnv names a file of KEY=VALUE lines that says how to reach a Synapse on loopback:
//
//	SERVER_NAME=127.0.0.11:8448           its server name
//	CLIENT_URL=http://127.0.0.11:8008     its Client-Server and admin API
//	FED_URL=https://127.0.0.11:8448       its Server-Server API
//	CA_FILE=/path/ca.crt                  the authority whose certificates it trusts (federation_custom_ca_list)
//	CA_KEY=/path/ca.key                   and its key, for the box's certificate; default: CA_FILE with .key for .crt
//	ADMIN_TOKEN=...                       access token of an administrator
//	CTL_URL=http://127.0.0.11:8450        optional: control port of a front door before FED_URL; its GET /stats is shown beside our own count
//	PID=1234                              optional: the process, for -kills
//	START=command                         optional: starts it again with the same data, for -kills; run by sh
const synapseEnv = "HALLIG_SYNAPSE"

// synapse is a Synapse that somebody else started.
type synapse struct {
	at    map[string]string
	ca    *testpeer.CA
	admin *matrixclient.Client
	pid   int
}

// parseEnv reads KEY=VALUE lines.
func parseEnv(text string) (map[string]string, error) {
	at := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not KEY=VALUE", line)
		}
		at[key] = value
	}
	for _, key := range []string{"SERVER_NAME", "CLIENT_URL", "FED_URL", "CA_FILE", "ADMIN_TOKEN"} {
		if at[key] == "" {
			return nil, fmt.Errorf("%s is missing", key)
		}
	}
	if at["CA_KEY"] == "" {
		at["CA_KEY"] = strings.TrimSuffix(at["CA_FILE"], ".crt") + ".key"
	}
	return at, nil
}

func findSynapse(dir string) (*synapse, error) {
	file := os.Getenv(synapseEnv)
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", synapseEnv, err)
	}
	s := &synapse{}
	if s.at, err = parseEnv(string(raw)); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", synapseEnv, file, err)
	}
	if s.ca, err = testpeer.LoadCA(s.at["CA_FILE"], s.at["CA_KEY"], dir); err != nil {
		return nil, err
	}
	s.admin = matrixclient.New(s.at["CLIENT_URL"])
	s.admin.Token = s.at["ADMIN_TOKEN"]
	s.pid, _ = strconv.Atoi(s.at["PID"]) // 0: it cannot be killed
	say("the central server is the Synapse %s", s.at["SERVER_NAME"])
	return s, nil
}

func (s *synapse) name() string            { return s.at["SERVER_NAME"] }
func (s *synapse) federation() string      { return s.at["FED_URL"] }
func (s *synapse) authority() *testpeer.CA { return s.ca }
func (s *synapse) close() error            { return nil } // who started it ends it
func (s *synapse) process() int            { return s.pid }
func (s *synapse) tears() bool             { return false }
func (s *synapse) forgets() time.Duration  { return time.Second } // the next request of the box ends it

// register makes an account by the admin API and logs in. The server outlives us, so names are told apart by the time.
func (s *synapse) register(ctx context.Context, localpart string) (*matrixclient.Client, error) {
	localpart += "-" + strconv.FormatInt(began.UnixMilli(), 36)
	user := "@" + localpart + ":" + s.name()
	if err := s.admin.Do(ctx, http.MethodPut, "/_synapse/admin/v2/users/"+url.PathEscape(user), map[string]any{"password": password}, nil); err != nil {
		return nil, err
	}
	c := matrixclient.New(s.at["CLIENT_URL"])
	return c, c.Login(ctx, localpart, password, "")
}

func (s *synapse) backedOff(ctx context.Context, box string) (bool, string, error) {
	var d struct {
		Interval int64 `json:"retry_interval"`
	}
	err := s.admin.Do(ctx, http.MethodGet, "/_synapse/admin/v1/federation/destinations/"+url.PathEscape(box), nil, &d)
	if err != nil && matrixclient.Status(err) != http.StatusNotFound {
		return false, "", err
	}
	if d.Interval == 0 {
		return false, "it is not in back-off", nil
	}
	return true, fmt.Sprintf("its back-off for the box is %v", time.Duration(d.Interval)*time.Millisecond), nil
}

// kill ends the process that the file names, after looking that it is a Synapse, and starts it with the command that the file gives.
func (s *synapse) kill(ctx context.Context) (bool, error) {
	if s.pid == 0 || s.at["START"] == "" {
		return false, nil
	}
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.pid), "cmdline"))
	if err != nil || !strings.Contains(string(line), "synapse") {
		return true, fmt.Errorf("process %d of %s is no Synapse", s.pid, synapseEnv)
	}
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil {
		return true, fmt.Errorf("kill Synapse: %w", err)
	}
	out, err := exec.CommandContext(ctx, "sh", "-c", s.at["START"]).Output()
	if err != nil {
		return true, fmt.Errorf("start Synapse again: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if pid, ok := strings.CutPrefix(strings.TrimSpace(line), "PID="); ok {
			if s.pid, err = strconv.Atoi(pid); err != nil {
				return true, err
			}
		}
	}
	return true, nil
}

// frontDoor gives what the front door has counted since it was reset, nil when there is none.
func (s *synapse) frontDoor(ctx context.Context, reset bool) (map[string]int, error) {
	ctl := s.at["CTL_URL"]
	if ctl == "" {
		return nil, nil
	}
	path := "/stats"
	if reset {
		path = "/reset"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ctl+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the front door: %w", err)
	}
	defer resp.Body.Close()
	if reset {
		return nil, nil
	}
	var stats struct {
		Req map[string]struct{ N int } `json:"req"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&stats); err != nil {
		return nil, errors.New("the front door does not answer as it should")
	}
	out := map[string]int{}
	for what, n := range stats.Req {
		_, path, _ := strings.Cut(what, " ")
		out[testpeer.Kind(path)] += n.N
	}
	return out, nil
}
