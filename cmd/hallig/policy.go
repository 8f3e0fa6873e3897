// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/google/renameio/v2"

	"hallig/appliance/policy"
	"hallig/appliance/signet"
)

// policyVerb is what an organisation does with the settings for all its boxes. It needs no box, and no network: the key that signs should see none.
func policyVerb(_ context.Context, args []string, out, errOut io.Writer) error {
	f, _ := flags("policy", errOut)
	to := f.String("out", "", "file for the new key")
	name := f.String("name", "", "key: whose it is, for people")
	keyFile := f.String("key", "", "sign: file with the organisation's key")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	switch {
	case len(words) == 1 && words[0] == "key" && *to != "":
		return policyKey(*to, *name, out)
	case len(words) == 2 && words[0] == "sign" && *keyFile != "":
		return policySign(words[1], *keyFile, out)
	case len(words) == 2 && words[0] == "check":
		return policyCheck(words[1], out)
	}
	return fmt.Errorf("%w: want hallig policy key --out FILE, hallig policy sign --key FILE POLICY, or hallig policy check POLICY", errUsage)
}

func policyKey(to, name string, out io.Writer) error {
	k := signet.Generate(name)
	if err := newFile(to, signet.Organisation.File(k)); err != nil {
		return fmt.Errorf("keep the key: %w", err)
	}
	fmt.Fprintf(out, "The key is in %s: keep it off the network, and a copy in a safe. Boxes believe it when this line is in their hallig.json, as \"organisation\": {\"key\": \"...\"}:\n\n%s\n", to, signet.Organisation.Text(k.Public()))
	return nil
}

// newFile writes a secret into a file that must not exist yet.
func newFile(name string, raw []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(raw); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// policySign puts the signature behind a policy, in place.
func policySign(name, keyFile string, out io.Writer) error {
	raw, err := os.ReadFile(keyFile)
	if err != nil {
		return fmt.Errorf("read the key: %w", err)
	}
	k, err := signet.Organisation.ParseFile(raw)
	if err != nil {
		return err
	}
	if raw, err = os.ReadFile(name); err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	signed, err := policy.Sign(raw, k)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := renameio.WriteFile(name, signed, 0o644); err != nil {
		return fmt.Errorf("keep the policy: %w", err)
	}
	fmt.Fprintf(out, "%s is signed. Hand it to the boxes with: hallig-hub policy set %s\n", name, name)
	return nil
}

// policyCheck says what is in a policy and who has signed it.
func policyCheck(name string, out io.Writer) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	p, by, err := policy.Read(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	var settings bytes.Buffer
	enc := json.NewEncoder(&settings)
	enc.SetIndent("", "  ")
	if err := enc.Encode(p.Settings); err != nil {
		return fmt.Errorf("show the policy: %w", err)
	}
	fmt.Fprintf(out, "policy %d %s\nsigned by %s\n%s", p.Serial, p.Name, signet.Organisation.Text(signet.Key{Key: by}), settings.String())
	return nil
}
