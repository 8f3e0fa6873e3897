// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

// maxParams is the largest number of parameters in one route.
const maxParams = 4

// router finds an endpoint by method and path. net/http's own patterns are no use here: they clean paths and redirect,
// while Matrix parameters may hold any byte in escaped form (state keys with slashes, empty state keys, dots).
//
// Paths are split where the client wrote a slash, and each segment is unescaped by itself. A parameter never matches an
// empty segment; routes that allow one are entered with their trailing slash.
type router struct {
	root node
}

type node struct {
	lit     map[string]*node
	param   *node
	methods map[string]*endpoint
}

// add enters a route. Segments in braces are parameters.
func (rt *router) add(method, pattern string, e *endpoint) {
	n := &rt.root
	params := 0
	for seg := range strings.SplitSeq(strings.TrimPrefix(pattern, "/"), "/") {
		if strings.HasPrefix(seg, "{") {
			params++
			if n.param == nil {
				n.param = new(node)
			}
			n = n.param
			continue
		}
		if n.lit == nil {
			n.lit = make(map[string]*node)
		}
		next := n.lit[seg]
		if next == nil {
			next = new(node)
			n.lit[seg] = next
		}
		n = next
	}
	if params > maxParams {
		panic(fmt.Sprintf("csapi: route %s has more than %d parameters", pattern, maxParams))
	}
	if n.methods == nil {
		n.methods = make(map[string]*endpoint)
	}
	if n.methods[method] != nil {
		panic(fmt.Sprintf("csapi: route %s %s is entered twice", method, pattern))
	}
	n.methods[method] = e
}

// maxSegments bounds the work done for a hostile path; the longest route has 10.
const maxSegments = 16

// find looks escapedPath up. methods is nil when no route has this path; bad says that an escape in it is no UTF-8.
func (rt *router) find(escapedPath string, params *[maxParams]string) (methods map[string]*endpoint, bad bool) {
	path := strings.TrimPrefix(escapedPath, "/")
	if strings.Count(path, "/") >= maxSegments {
		return nil, false
	}
	var segs [maxSegments]string
	n := 0
	for seg := range strings.SplitSeq(path, "/") {
		plain, err := url.PathUnescape(seg)
		if err != nil || !utf8.ValidString(plain) {
			bad, plain = true, seg
		}
		segs[n] = plain
		n++
	}
	// r0 is what old clients call v3.
	if n > 2 && segs[0] == "_matrix" && segs[2] == "r0" {
		segs[2] = "v3"
	}
	if m := rt.root.find(segs[:n], params, 0); m != nil {
		return m.methods, bad
	}
	return nil, false
}

// find walks literal children first and falls back to the parameter child.
func (n *node) find(segs []string, params *[maxParams]string, used int) *node {
	if len(segs) == 0 {
		if n.methods == nil {
			return nil
		}
		return n
	}
	if next := n.lit[segs[0]]; next != nil {
		if m := next.find(segs[1:], params, used); m != nil {
			return m
		}
	}
	if n.param == nil || segs[0] == "" {
		return nil
	}
	if m := n.param.find(segs[1:], params, used+1); m != nil {
		params[used] = segs[0]
		return m
	}
	return nil
}
