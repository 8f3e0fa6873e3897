// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"math"

	"hallig/radio/frame"
)

// On a raw line frames can go coded (frame.Coded), which costs about a seventh and corrects bit errors. Both ends say in their hellos that
// they can read such frames; each decides for its own data, by what became of its frames: as soon as coded ones are expected to deliver
// more than plain ones of the best length do. That is so from about 14 % of lost frames of usual length on, if bit errors are the reason, and never if
// fades are. Acknowledgements go as the data they answer came. Whether the air is better again only plain frames can tell: they are
// tried after a while, and when that was in vain, after twice the while. Coding that does not keep its promise ends, too.
type coding struct {
	far   bool // the far end reads coded frames
	now   bool // the frame that is being received is a coded one
	heard bool // the far end's last data were coded
	own   bool // ours are

	arrived, lost float64 // coded frames of ours
	due           int     // fates until it is thought about again
	left, while   int     // fates until plain frames are tried again; how long that was set to
	barred        int     // fates until coding may be tried again
}

const (
	firstWhile  = 600
	longest     = 20_000
	barredFor   = 4000
	helloCodes  = 2 // flag in a hello, beside helloOpen
	betterCoded = 1.03
)

// Correcting says whether the frame that Receive is called with next was a coded one. Without coding it need not be called.
func (l *Link) Correcting(coded bool) { l.coding.now = coded }

// Coded says whether our data go coded.
func (l *Link) Coded() bool { return l.coding.own }

// code switches coding of our data on or off.
func (l *Link) code(on bool) {
	l.coding.own = on
	l.cfg.Framing = frame.COBS
	if on {
		l.cfg.Framing = frame.Coded
	}
}

// framing of a frame.
func (l *Link) framing(f *frame.Frame) frame.Framing {
	switch {
	case f.Type == frame.Hello && l.cfg.Framing == frame.Coded:
		return frame.COBS // whoever it is may not be able to read anything else
	case f.Type == frame.Control && l.coding.heard && l.cfg.Framing == frame.COBS:
		return frame.Coded
	}
	return l.cfg.Framing
}

// farFraming is that of the frame being received.
func (l *Link) farFraming() frame.Framing {
	switch {
	case !l.cfg.Correct:
		return l.cfg.Framing
	case l.coding.now:
		return frame.Coded
	}
	return frame.COBS
}

// received takes note of how the far end's data come.
func (c *coding) received(f *frame.Frame) {
	if f.Type == frame.Data || f.Type == frame.Whole {
		c.heard = c.now
	}
}

// note takes the fate of a coded frame.
func (c *coding) note(lost bool) {
	const keep = 1 - 1.0/64
	c.arrived, c.lost = c.arrived*keep, c.lost*keep
	if lost {
		c.lost++
	} else {
		c.arrived++
	}
	c.left--
	c.due--
}

// consider decides anew whether our data go coded. It is called as often as the length of frames is thought about.
func (l *Link) consider() {
	c := &l.coding
	switch {
	case !l.cfg.Correct || !c.far:
		if c.own {
			l.code(false)
		}
	case c.own && !l.cfg.CorrectAlways:
		l.reconsider()
	case c.own:
	case l.cfg.CorrectAlways:
		l.code(true)
	case c.barred > 0:
	case c.heard && l.weather.seen() < 16 || l.weather.seen() >= 16 && l.codedWorth() > betterCoded*l.plainWorth():
		c.while = min(max(firstWhile, c.while), longest)
		c.arrived, c.lost, c.left, c.due = 0, 0, c.while, 16
		l.code(true)
	}
}

// reconsider ends coding that does not help, and tries plain frames when it is time.
func (l *Link) reconsider() {
	c := &l.coding
	c.due = 16
	if n := c.arrived + c.lost; n > 24 {
		if got := l.codedShare() * c.arrived / n; got < 0.9*l.plainWorth() {
			c.barred = barredFor
			l.code(false)
			return
		}
	}
	if c.left <= 0 {
		c.while *= 2
		l.weather.doubt()
		l.code(false)
	}
}

// codedMTU is the longest body that fills whole code words.
func (l *Link) codedMTU() int {
	const word, around = 223, frame.HeaderSize + frame.TagSize
	if n := (l.cfg.calmMTU + around) / word; n > 0 {
		return n*word - around
	}
	return l.cfg.calmMTU
}

// codedShare is the share of payload in a coded frame.
func (l *Link) codedShare() float64 {
	m := l.codedMTU()
	return float64(m) / float64(frame.Coded.Size(frame.HeaderSize+m+frame.TagSize)+1)
}

// codedWorth is what coded frames are expected to deliver, plainWorth what plain ones of the best length are.
func (l *Link) codedWorth() (sum float64) {
	share := l.codedShare()
	words := math.Ceil(float64(l.codedMTU()) / 216)
	l.weather.believe(func(p, b, weight float64) {
		sum += weight * share * (1 - p) * math.Pow(survives(255*(1-math.Pow(1-b, 8)), 16), words)
	})
	return sum
}

func (l *Link) plainWorth() (best float64) {
	overhead := frame.COBS.Size(frame.HeaderSize+frame.TagSize) + 1
	lengths := lengths(l.cfg.MTU)
	value := make([]float64, len(lengths))
	l.weather.believe(func(p, b, weight float64) {
		for i, m := range lengths {
			value[i] += weight * worth(p, b, m, overhead)
		}
	})
	for _, v := range value {
		best = max(best, v)
	}
	return best
}

// survives is how likely at most n of what happens a times on average happen (Poisson).
func survives(a float64, n int) float64 {
	sum, term := 0.0, math.Exp(-a)
	for k := 1; k <= n+1; k++ {
		sum += term
		term *= a / float64(k)
	}
	return sum
}

// seen is how many fates the weather goes by; doubt makes it forget most of them, so that new ones count.
func (w *weather) seen() (n float64) {
	for _, f := range w.fates {
		n += f.arrived + f.lost
	}
	return n
}

func (w *weather) doubt() {
	for i := range w.fates {
		f := &w.fates[i]
		f.arrived, f.lost, f.bytes = f.arrived/20, f.lost/20, f.bytes/20
	}
	w.due = 16
}
