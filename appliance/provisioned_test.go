// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/account"
	"hallig/appliance/provision"
)

// TestConfigFieldNames: a provisioning file may hold every field of config.json, and knows them by name without importing them.
func TestConfigFieldNames(t *testing.T) {
	var want []string
	for f := range reflect.TypeFor[Config]().Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "-" && name != "" {
			want = append(want, name)
		}
	}
	got := slices.Clone(provision.ConfigFields)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("provision.ConfigFields is\n%q, want the fields of Config:\n%q", got, want)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const provisioned = `{"hallig":1,"label":"Box 7","server_name":"box7.example","admin_code":"k7mq-2fxv-9tdp",
	"serial":[{"device":"/dev/hallig/radio","baud":1200,"half_duplex":true}],
	"config":{"listen":"127.0.0.1:0","p2p":{"no_mdns":true,"peers":["/ip4/10.0.0.1/tcp/4001/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"]},"room_version":"11"}}`

func TestConfigOverProvisioning(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "hallig.json"), provisioned)
	c, err := LoadProvisioned(dir, file)
	if err != nil || c.Trouble != (provision.Error{}) {
		t.Fatal(err, c.Trouble)
	}
	if c.ServerName != "box7.example" || !c.nameProvisioned || c.RoomVersion != "11" || !c.P2P.NoMDNS || len(c.P2P.Peers) != 1 || c.Provisioned.Label != "Box 7" || c.Provision != file {
		t.Errorf("got %+v", c)
	}
	if want := []SerialConfig{{Device: "/dev/hallig/radio", Baud: 1200, HalfDuplex: true}}; !slices.Equal(c.Serial, want) {
		t.Errorf("serial %+v, want %+v", c.Serial, want)
	}
	// What config.json names comes from there alone, down to the fields within.
	write(t, filepath.Join(dir, "config.json"), `{"server_name":"other.example","serial":[{"device":"/dev/ttyS1"}],"p2p":{"off":true}}`)
	if c, err = LoadProvisioned(dir, file); err != nil {
		t.Fatal(err)
	}
	if c.ServerName != "other.example" || c.nameProvisioned || !reflect.DeepEqual(c.P2P, P2PConfig{Off: true}) || !slices.Equal(c.Serial, []SerialConfig{{Device: "/dev/ttyS1"}}) || c.RoomVersion != "11" {
		t.Errorf("got %+v", c)
	}
	write(t, filepath.Join(dir, "config.json"), `{"listn":1}`)
	if _, err = LoadProvisioned(dir, file); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("got %v, want an error about config.json", err)
	}
}

// TestConfigBadProvisioning: the box comes up without the file, and can say why.
func TestConfigBadProvisioning(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": `{`, "unknown field": `{"hallig":1,"sever_name":"x"}`,
		"wrong type within config": `{"hallig":1,"server_name":"box7.example","config":{"listen":7}}`,
		"wrong value in config":    `{"hallig":1,"server_name":"box7.example","config":{"room_version":"99"}}`,
		"unknown field below":      `{"hallig":1,"server_name":"box7.example","config":{"p2p":{"onn":true}}}`,
	} {
		dir := t.TempDir()
		c, err := LoadProvisioned(dir, write(t, filepath.Join(dir, "hallig.json"), text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.Trouble.De == "" || c.Trouble.En == "" || c.ServerName != "" || !reflect.DeepEqual(c.Provisioned, provision.File{}) {
			t.Errorf("%s: got %+v", name, c)
		}
	}
	c, err := LoadProvisioned(t.TempDir(), "/nowhere/hallig.json")
	if err != nil || !strings.Contains(c.Trouble.De, "hallig.json") {
		t.Errorf("a missing file: %v, %+v", err, c.Trouble)
	}
}

// TestConfigOfStickAndUsers: once somebody has an account, a stick with another name changes nothing and stops nothing.
func TestConfigOfStickAndUsers(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	log := slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil))
	open := func(text string) *Box {
		t.Helper()
		cfg, err := LoadProvisioned(dir, write(t, filepath.Join(t.TempDir(), "hallig.json"), text))
		if err != nil {
			t.Fatal(err)
		}
		cfg.P2P.Off = true
		b, err := Open(ctx, cfg, log)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open(provisioned)
	if s := b.Screen(); s.EnrolCode != "k7mq-2fxv-9tdp" || s.ServerName != "box7.example" {
		t.Errorf("the screen shows %+v", s)
	}
	if _, err := b.accounts.Register(context.WithoutCancel(ctx), account.RegisterRequest{Username: "chief", Password: "x", Token: "k7mq-2fxv-9tdp"}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(strings.ReplaceAll(provisioned, "box7.example", "box8.example"))
	defer b.Close()
	if s := b.Screen(); s.ServerName != "box7.example" || s.EnrolCode != "" || !strings.Contains(b.cfg.Trouble.De, "box8.example") {
		t.Errorf("the screen shows %+v, trouble %+v", s, b.cfg.Trouble)
	}
}
