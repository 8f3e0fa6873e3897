// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"hallig/appliance/provision"
)

// LoadConfig reads DIR/config.json over the zero value. A missing file is an empty one.
func LoadConfig(dir string) (Config, error) { return LoadProvisioned(dir, "") }

// LoadProvisioned reads what the provisioning file says, and DIR/config.json over it, field by field: a field that config.json names is taken
// from there alone. file "" is none. A wrong config.json is an error. A wrong provisioning file is not: the box comes up without it, and
// says in Config.Trouble what is wrong with it.
func LoadProvisioned(dir, file string) (Config, error) {
	name := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{Data: dir}, fmt.Errorf("read configuration: %w", err)
	}
	mend := func(err error) error {
		return fmt.Errorf("configuration %s is refused; mend it there, or move the file away to start with defaults: %w", name, err)
	}
	own := map[string]json.RawMessage{}
	if len(raw) > 0 {
		var c Config
		if err := decodeConfig(raw, &c); err != nil {
			return Config{Data: dir}, mend(explained(raw, err, true))
		}
		if err := json.Unmarshal(raw, &own); err != nil {
			return Config{Data: dir}, mend(err)
		}
	}
	c := Config{Data: dir, Provision: file}
	if file == "" {
		if err := merge(&c, nil, own); err != nil {
			return c, mend(err)
		}
		return c, nil
	}
	f, given, err := readProvision(file)
	if err == nil {
		trial := c
		if err = merge(&trial, given, nil); err != nil {
			why := provision.Error{De: err.Error() + ".", En: err.Error() + "."}
			errors.As(err, &why) // one that has its own sentences
			err = provision.Error{De: "In „config“ stimmt etwas nicht: " + why.De, En: `Something is wrong in "config": ` + why.En}
		}
	}
	if err != nil {
		c.Trouble, given, f = provision.ErrorOf(err), nil, provision.File{}
	}
	if err := merge(&c, given, own); err != nil {
		return c, mend(err)
	}
	c.Provisioned = f
	c.nameProvisioned = c.ServerName != "" && own["server_name"] == nil
	return c, nil
}

// readProvision reads the file and gives what of it are fields of Config, as JSON.
func readProvision(name string) (f provision.File, given map[string]json.RawMessage, err error) {
	r, err := os.Open(name)
	if err != nil {
		return f, nil, fmt.Errorf("read provisioning file: %w", err)
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, provision.MaxBytes+1))
	if err != nil {
		return f, nil, fmt.Errorf("read provisioning file: %w", err)
	}
	if f, err = provision.Parse(raw); err != nil {
		return f, nil, err
	}
	c := Config{ServerName: f.ServerName, Serial: f.Serial, Backup: f.Backup, Certificate: f.Certificate}
	if raw, err = json.Marshal(c); err != nil {
		return f, nil, fmt.Errorf("read provisioning file: %w", err)
	}
	given = map[string]json.RawMessage{}
	for _, part := range [][]byte{raw, f.Config} {
		if len(part) == 0 {
			continue
		}
		if err := json.Unmarshal(part, &given); err != nil {
			return f, nil, fmt.Errorf("read provisioning file: %w", err)
		}
	}
	return f, given, nil
}

// merge reads fields over c, those of b before those of a, and checks the whole.
func merge(c *Config, a, b map[string]json.RawMessage) error {
	all := map[string]json.RawMessage{}
	for _, part := range []map[string]json.RawMessage{a, b} {
		for name, v := range part {
			all[name] = v
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return parseConfig(raw, c)
}

func parseConfig(raw []byte, c *Config) error {
	if err := decodeConfig(raw, c); err != nil {
		return explained(raw, err, false) // merged: nobody wrote it line by line
	}
	return c.check()
}

func decodeConfig(raw []byte, c *Config) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return err
	}
	if dec.More() {
		return errors.New("more than one JSON value")
	}
	return nil
}

// explained says why a text was refused in words for people, with the field's path and, where the text is a person's, line and column.
func explained(raw []byte, err error, place bool) error {
	if why := provision.Explain(raw, Config{}, place); why != nil {
		return why
	}
	return err
}

// noteProvisioning notes what of the provisioning file could not be followed.
func (b *Box) noteProvisioning() {
	if b.cfg.Trouble == (provision.Error{}) && b.cfg.nameProvisioned && b.cfg.ServerName != b.id.Server {
		b.cfg.Trouble = provision.Error{
			De: fmt.Sprintf("Die Box heißt %s und hat Konten unter diesem Namen; %s aus hallig.json kann sie nicht mehr werden.", b.id.Server, b.cfg.ServerName),
			En: fmt.Sprintf("The box is called %s and has accounts under that name; it cannot become %s of hallig.json any more.", b.id.Server, b.cfg.ServerName),
		}
	}
	if b.cfg.Trouble != (provision.Error{}) {
		b.log.Warn("provisioning file", "file", b.cfg.Provision, "trouble", b.cfg.Trouble.En)
	}
}
