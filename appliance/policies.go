// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/renameio/v2"

	"hallig/appliance/admin"
	"hallig/appliance/policy"
	"hallig/appliance/provision"
	"hallig/appliance/signet"
)

// This file applies what the box's organisation has signed for all its boxes (package policy). Whoever stands at the box has the last word: what config.json or hallig.json says holds, the policy
// fills in what they leave out. It holds at once, and over a restart. A document with an older serial, another signature or one value that cannot be changes nothing.

const policyFile = "policy"

// policies are what the organisation has said. The zero value is a box that belongs to none.
type policies struct {
	key   ed25519.PublicKey // nil: it takes no policies
	force atomic.Pointer[policy.Policy]

	mu      sync.Mutex // of one that is taken, and over refused
	refused string     // why the last one was not taken
}

// openPolicy reads the one that was in force. It comes before what looks at settings.
func (b *Box) openPolicy() error {
	text := cmp.Or(b.cfg.OrganisationKey, b.cfg.Provisioned.Organisation.Key)
	if text == "" {
		return nil
	}
	k, err := signet.Organisation.Parse(text)
	if err != nil { // check has looked already
		return fmt.Errorf("organisation_key: %w", err)
	}
	b.policies.key = k.Key
	raw, err := os.ReadFile(filepath.Join(b.cfg.Data, policyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	p, err := policy.Verify(raw, k.Key)
	if err != nil {
		b.log.Warn("the policy on the disk is not believed; the box goes on without one until its hub has one", "err", err)
		return nil
	}
	b.policies.force.Store(&p)
	return nil
}

// takePolicy puts a newer policy in force. Nothing is changed when it is refused.
func (b *Box) takePolicy(raw []byte) error {
	x := &b.policies
	x.mu.Lock()
	defer x.mu.Unlock()
	p, err := policy.Verify(raw, x.key)
	if old := x.force.Load(); err == nil && old != nil && p.Serial <= old.Serial {
		err = fmt.Errorf("its serial %d is not above that of the one in force, %d", p.Serial, old.Serial)
	}
	if err == nil {
		err = renameio.WriteFile(filepath.Join(b.cfg.Data, policyFile), raw, 0o600)
	}
	if err != nil {
		if why := err.Error(); why != x.refused {
			x.refused = why
			b.log.Warn("a policy is not taken; what holds goes on to hold", "err", err)
		}
		return err
	}
	x.refused = ""
	x.force.Store(&p)
	b.applyPolicy()
	b.log.Info("a policy of the organisation is in force", "serial", p.Serial, "name", p.Name)
	return nil
}

// settings are those of the policy in force.
func (b *Box) settings() policy.Settings {
	if p := b.policies.force.Load(); p != nil {
		return p.Settings
	}
	return policy.Settings{}
}

// applyPolicy hands on what is not asked for anew each time.
func (b *Box) applyPolicy() {
	b.media.Limit(b.mediaLimits())
}

// mediaLimits are in force for one file and for all; 0: as package media has it.
func (b *Box) mediaLimits() (upload, quota int64) {
	s := b.settings()
	return filled(b.cfg.UploadLimitBytes, s.UploadLimitBytes), filled(b.cfg.MediaQuotaBytes, s.MediaQuotaBytes)
}

// filled is what the box itself says, or else the policy.
func filled(own int64, by *int64) int64 {
	if own == 0 && by != nil {
		return *by
	}
	return own
}

// updating says how the box keeps its system new: as hallig.json says, when it has such a part, or else as the policy.
func (b *Box) updating() provision.Updates {
	for _, u := range []*provision.Updates{b.cfg.Provisioned.Updates, b.settings().Updates} {
		if u != nil {
			return *u
		}
	}
	return provision.Updates{}
}

// policyStatus is what people are shown; nil: the box belongs to no organisation that says anything.
func (b *Box) policyStatus() *admin.Policy {
	x := &b.policies
	if x.key == nil {
		return nil
	}
	x.mu.Lock()
	out := &admin.Policy{Refused: x.refused, Settings: []admin.PolicySetting{}}
	x.mu.Unlock()
	p := x.force.Load()
	if p == nil {
		return out
	}
	out.Serial, out.Name = p.Serial, p.Name
	add := func(name, value string, own bool) {
		out.Settings = append(out.Settings, admin.PolicySetting{Name: name, Value: value, Own: own})
	}
	s := p.Settings
	if s.UploadLimitBytes != nil {
		add("upload_limit_bytes", fmt.Sprint(*s.UploadLimitBytes), b.cfg.UploadLimitBytes != 0)
	}
	if s.MediaQuotaBytes != nil {
		add("media_quota_bytes", fmt.Sprint(*s.MediaQuotaBytes), b.cfg.MediaQuotaBytes != 0)
	}
	if len(s.ClockNTP) > 0 {
		add("clock_ntp", strings.Join(s.ClockNTP, ", "), len(b.cfg.ClockNTP)+len(b.cfg.Provisioned.Network.NTP) > 0)
	}
	if u := s.Updates; u != nil {
		value := fmt.Sprintf("automatic: %t", u.Automatic)
		if u.Window != "" {
			value += ", window: " + u.Window
		}
		if u.NoHub {
			value += ", no_hub"
		}
		add("updates", value, b.cfg.Provisioned.Updates != nil)
	}
	return out
}
