// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"hallig/appliance/policy"
	"hallig/appliance/signet"
	"hallig/sync/hub/api"
	"hallig/sync/hub/fleet"
)

// This file hands the organisation's policy to boxes. The hub cannot make one: boxes believe what their organisation's key has signed, and of that only what is newer than what they have.

const policyFile = "policy"

// handed is the policy that the hub hands out. It is a value that is replaced.
type handed struct {
	policy.Policy
	raw []byte
	by  ed25519.PublicKey
}

// openPolicy reads the one that was set.
func (h *Hub) openPolicy() error {
	raw, err := os.ReadFile(filepath.Join(h.cfg.Data, policyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	p, err := h.readPolicy(raw)
	if err != nil {
		return fmt.Errorf("%s: %w; delete it, and set the policy again: hallig-hub policy set FILE", filepath.Join(h.cfg.Data, policyFile), err)
	}
	h.policy.Store(p)
	return nil
}

// readPolicy refuses what no box would believe, as far as the hub knows.
func (h *Hub) readPolicy(raw []byte) (*handed, error) {
	p, by, err := policy.Read(raw)
	if err == nil && h.cfg.OrganisationKey != "" {
		k, bad := signet.Organisation.Parse(h.cfg.OrganisationKey) // check has looked already
		if err = bad; err == nil {
			p, err = policy.Verify(raw, k.Key)
		}
	}
	if err != nil {
		return nil, said("Die Vorgaben werden nicht angenommen: "+err.Error(), "The policy is not taken: "+err.Error())
	}
	return &handed{p, bytes.Clone(raw), by}, nil
}

// setPolicy takes a policy for all boxes, when it is newer than the one before.
func (h *Hub) setPolicy(r io.Reader) (*fleet.Policy, error) {
	raw, err := io.ReadAll(io.LimitReader(r, policy.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	p, err := h.readPolicy(raw)
	if err != nil {
		return nil, err
	}
	h.policing.Lock()
	defer h.policing.Unlock()
	if old := h.policy.Load(); old != nil && p.Serial <= old.Serial {
		return nil, said(fmt.Sprintf("Nummer %d liegt hier schon; Boxen nehmen nur, was eine höhere hat: serial hochzählen und neu unterschreiben.", old.Serial),
			fmt.Sprintf("Number %d is here already; boxes take only what has a higher one: raise serial and sign again.", old.Serial))
	}
	if err := renameio.WriteFile(filepath.Join(h.cfg.Data, policyFile), raw, 0o600); err != nil {
		return nil, fmt.Errorf("keep the policy: %w", err)
	}
	h.policy.Store(p)
	h.log.Info("a policy is handed to the boxes at their next contact", "serial", p.Serial, "name", p.Name)
	return h.policyState(), nil
}

// policyState is what the operator is shown; nil: there is none.
func (h *Hub) policyState() *fleet.Policy {
	p := h.policy.Load()
	if p == nil {
		return nil
	}
	return &fleet.Policy{Serial: p.Serial, Name: p.Name, Settings: p.Settings, SignedBy: signet.Organisation.Text(signet.Key{Key: p.by}), Trusted: h.cfg.OrganisationKey != ""}
}

// policyFor is the policy that a box lacks; nil: none.
func (h *Hub) policyFor(c api.Contact) []byte {
	p := h.policy.Load()
	if p == nil || c.Policy == nil || *c.Policy >= p.Serial {
		return nil
	}
	return p.raw
}

// policyVerb is setPolicy at the local door.
func (h *Hub) policyVerb(w http.ResponseWriter, r *http.Request) {
	p, err := h.setPolicy(r.Body)
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"Error": err.Error()})
		return
	}
	answer(w, http.StatusOK, p)
}
