// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"

	"hallig/appliance/admin"
	"hallig/sync/peer"
)

// carriedStatus is what goes by boxes in between.
func (b *Box) carriedStatus(ctx context.Context) (admin.Carried, error) {
	s, err := b.exchange.relay.Status(ctx)
	if err != nil {
		return admin.Carried{}, err
	}
	roster := b.exchange.paired()
	name := func(id peer.ID) string {
		if p, ok := roster.ByID(id); ok {
			return p.Server
		}
		return id.Short()
	}
	out := admin.Carried{Bytes: s.Total, Most: s.Most, Refused: map[string]int64{}}
	for _, c := range s.Carrying {
		out.For = append(out.For, admin.Parcels{Box: name(c.For), Count: c.Count, Bytes: c.Bytes, Oldest: c.Oldest, Near: c.Near})
	}
	for _, m := range s.Mail {
		out.Mail = append(out.Mail, admin.Parcels{Box: name(m.For), Count: m.Count, Bytes: int64(m.Bytes), Oldest: m.Oldest, Near: m.Near})
	}
	c := s.Counts
	for why, n := range map[string]int{"no_room": c.Full, "circled": c.Circled, "of_a_box_that_is_not_paired": c.Strange, "forged": c.Forged,
		"malformed": c.Refused, "word_on_nothing_offered": c.Unasked, "too_many_ways_named": c.Overlong} {
		if n > 0 {
			out.Refused[why] = int64(n)
		}
	}
	return out, nil
}

func carriedMetrics(m *admin.Metrics, c admin.Carried) {
	count := admin.Metric{Name: "hallig_carried_parcels", Help: "Sealed parcels that the box carries for another one."}
	size := admin.Metric{Name: "hallig_carried_bytes", Help: "Bytes of them."}
	age := admin.Metric{Name: "hallig_carried_oldest_seconds", Help: "For how long the box has run since the oldest of them came."}
	for _, p := range c.For {
		label := []string{"for", p.Box}
		count.Samples = append(count.Samples, admin.Sample{Labels: label, Value: float64(p.Count)})
		size.Samples = append(size.Samples, admin.Sample{Labels: label, Value: float64(p.Bytes)})
		age.Samples = append(age.Samples, admin.Sample{Labels: label, Value: p.Oldest.Seconds()})
	}
	mail := admin.Metric{Name: "hallig_mail_messages", Help: "Messages to a box by boxes in between, without an answer."}
	mailAge := admin.Metric{Name: "hallig_mail_oldest_seconds", Help: "Since when the oldest of them has been on its way."}
	for _, p := range c.Mail {
		label := []string{"server", p.Box}
		mail.Samples = append(mail.Samples, admin.Sample{Labels: label, Value: float64(p.Count)})
		mailAge.Samples = append(mailAge.Samples, admin.Sample{Labels: label, Value: p.Oldest.Seconds()})
	}
	refused := admin.Metric{Name: "hallig_carried_refused_total", Help: "Parcels of other boxes, and words on them, that were not taken since the start.", Counter: true}
	for why, n := range c.Refused {
		refused.Samples = append(refused.Samples, admin.Sample{Labels: []string{"why", why}, Value: float64(n)})
	}
	*m = append(*m, count, size, age, mail, mailAge, refused)
	m.Add("hallig_carried_disk_bytes", "What all carried parcels take on the disk.", false, float64(c.Bytes))
	m.Add("hallig_carried_disk_most_bytes", "What they may take.", false, float64(c.Most))
}
