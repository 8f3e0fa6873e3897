// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"math"
	"time"

	"hallig/radio/frame"
)

// weather learns from the fate of frames how the air treats them, and what follows from that: how long frames should be, and how often
// one is lost.
//
// A frame of n bytes is taken to arrive with (1-p)·(1-b)^8n: p is what hits frames whatever their length (fades, collisions), b the bit
// error rate. Only frames of different lengths tell the two apart, and the two ask for opposite things: against bit errors shorter
// frames help, against fades they only cost. So both are held open: for each pair of a grid it is computed how well it explains what
// was seen, and the length is taken that delivers most over all pairs: the mean and one and a half times its deviation. Where the question is open, that
// tries other lengths, which answers it. Old fates fade; a change has to promise a gain, so that the length does not swing.
type weather struct {
	fates [sizeClasses]fates
	since int // fates since the last change of length
	due   int // fates until it is thought about again
	mtu   int // best length of a body
	lossy bool
}

// fates of frames of about one length.
type fates struct{ arrived, lost, bytes float64 }

const (
	sizeClasses = 7    // up to 32, 64 ... 1024 and more bytes
	memory      = 400  // frames of its length after which a fate counts for 1/e
	slow        = 4000 // and frames of whatever length: what other lengths have shown must outlast the trial of one
	leastMTU    = 28   // best at a bit error rate of a thousandth; below, the header is all there is
	gain        = 1.03
)

// The grid. Its beginning is likelier than its end as long as nothing is known.
func fades() []float64 { return []float64{0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.27, 0.35, 0.45, 0.6} }

func bitErrors() []float64 {
	return []float64{0, 2e-6, 5e-6, 1e-5, 2e-5, 3.5e-5, 6e-5, 1e-4, 1.6e-4, 2.5e-4, 4e-4, 6e-4, 1e-3, 1.5e-3, 2.3e-3, 4e-3}
}

func sizeClass(n int) int {
	c := 0
	for n > 32 && c < sizeClasses-1 {
		n, c = n/2, c+1
	}
	return c
}

// note takes the fate of a frame of n bytes on the air.
func (w *weather) note(n int, lost bool) {
	class := sizeClass(n)
	for i := range w.fates {
		keep := 1 - 1.0/slow
		if i == class {
			keep = 1 - 1.0/memory
		}
		f := &w.fates[i]
		f.arrived, f.lost, f.bytes = f.arrived*keep, f.lost*keep, f.bytes*keep
	}
	f := &w.fates[class]
	f.bytes += float64(n)
	if lost {
		f.lost++
	} else {
		f.arrived++
	}
	w.since++
	w.due--
}

// believe calls f with every pair of the grid and how likely it is.
func (w *weather) believe(f func(p, b, weight float64)) {
	ps, bs := fades(), bitErrors()
	logs := make([]float64, len(ps)*len(bs))
	best := math.Inf(-1)
	for i, p := range ps {
		for j, b := range bs {
			sum := -0.6*float64(i) - 0.4*float64(j)
			for _, c := range &w.fates {
				n := c.arrived + c.lost
				if n < 0.01 {
					continue
				}
				ok := min(arrives(p, b, c.bytes/n), 0.9995)
				sum += c.arrived*math.Log(ok) + c.lost*math.Log(1-ok)
			}
			logs[i*len(bs)+j] = sum
			best = max(best, sum)
		}
	}
	total := 0.0
	for k, v := range logs {
		logs[k] = math.Exp(v - best)
		total += logs[k]
	}
	for i, p := range ps {
		for j, b := range bs {
			if weight := logs[i*len(bs)+j] / total; weight > 1e-6 {
				f(p, b, weight)
			}
		}
	}
}

// arrives is how likely a frame of n bytes arrives.
func arrives(p, b, n float64) float64 { return (1 - p) * math.Exp(-8*n*b) }

// loss is how likely a frame of n bytes on the air is lost.
func (w *weather) loss(n int) float64 {
	sum := 0.0
	w.believe(func(p, b, weight float64) { sum += weight * (1 - arrives(p, b, float64(n))) })
	return sum
}

// length thinks about the length of bodies, at most the given one, once enough new fates are in. overhead is what a frame needs besides.
func (w *weather) length(most, overhead int) int {
	if w.mtu == 0 || w.mtu > most {
		w.mtu, w.due = most, 8
	}
	if w.due > 0 {
		return w.mtu
	}
	w.due = 16
	lengths := append(lengths(most), w.mtu)
	mean, square := make([]float64, len(lengths)), make([]float64, len(lengths))
	w.believe(func(p, b, weight float64) {
		for i, m := range lengths {
			v := worth(p, b, m, overhead)
			mean[i] += weight * v
			square[i] += weight * v * v
		}
	})
	best, now := 0, 0.0
	for i := range mean {
		now = mean[i] + 1.5*math.Sqrt(max(0, square[i]-mean[i]*mean[i]))
		mean[i] = now
		if mean[i] > mean[best] {
			best = i
		}
	}
	stay := 128 // frames, for a small gain
	if mean[best] > now*1.08 {
		stay = 8
	}
	if m := lengths[best]; m != w.mtu && mean[best] > now*gain && w.since >= stay {
		w.mtu, w.since = m, 0
	}
	return w.mtu
}

// worth is the share of the air time that arrives as payload.
func worth(p, b float64, m, overhead int) float64 {
	return float64(m) / float64(m+overhead) * arrives(p, b, float64(m+overhead))
}

// lengths of bodies that come into question.
func lengths(most int) []int {
	out := []int{most}
	for m := most * 7 / 10; m > leastMTU; m = m * 7 / 10 {
		out = append(out, m)
	}
	if most > leastMTU {
		out = append(out, leastMTU)
	}
	return out
}

// mtu is the longest body of a new frame, by what the air has done to those before.
func (l *Link) mtu() int {
	w, most := &l.weather, l.cfg.calmMTU
	if l.cfg.Correct && (l.cfg.CorrectAlways || w.mtu > 0 && w.due <= 0 || l.coding.own && l.coding.due <= 0) {
		l.consider()
	}
	if l.coding.own {
		return l.codedMTU()
	}
	if w.mtu > 0 && w.due <= 0 && l.cfg.MTU > most {
		switch loss := w.loss(most); {
		case loss > 0.12 && !w.lossy:
			if w.lossy = true; w.mtu == most {
				w.mtu = l.cfg.MTU
			}
		case loss < 0.07:
			w.lossy = false
		}
	}
	if w.lossy {
		most = l.cfg.MTU
	}
	n := w.length(most, l.cfg.Framing.Size(frame.HeaderSize+frame.TagSize)+1)
	if n == most && l.Queued()+l.underWay() <= 2*l.cfg.MTU {
		n = l.cfg.MTU // a lone message on an idle line keeps nobody waiting, and a frame less is ten bytes less
	}
	return n
}

// underWay is the number of bytes that were sent and are not acknowledged.
func (l *Link) underWay() (n int) {
	for s := l.una; s != l.nxt; s++ {
		n += len(l.out[s%window].frame.Body)
	}
	return n
}

// hopeless says whether a frame was made so much too long for what the air has become that it will never arrive. Its number is bound to
// its body, so only a new contact can send it in shorter ones; the layer above sends what was given up again. It takes minutes, as a far
// end whose reader is slow refuses frames, too.
func (l *Link) hopeless(now time.Time) bool {
	for s := l.una; s != l.nxt; s++ {
		if o := &l.out[s%window]; o.state == lost && o.tries >= 24 && now.Sub(o.bound) > 3*time.Minute && len(o.frame.Body) > 2*l.mtu() {
			return true
		}
	}
	return false
}

// copies is how often a frame is sent in one go. Only flash is worth the air time, and only where frames are being lost.
func (l *Link) copies(o *outFrame) int {
	if o.frame.Priority != 0 {
		return 1
	}
	switch loss := max(l.missed, l.weather.loss(o.size(&l.cfg))); {
	case loss > 0.25:
		return 3
	case loss > 0.08:
		return 2
	}
	return 1
}

// MTU is the longest body of new frames now.
func (l *Link) MTU() int { return l.mtu() }
