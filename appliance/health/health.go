// SPDX-License-Identifier: EUPL-1.2

// Package health says how a box is doing: green, or the one thing to do. Facts go in, a tree of sentences in German and English comes out; it
// reads no file and no clock, asks nobody and remembers nothing.
//
// Each part of a box is a Node with a state (ok, look, trouble) and a sentence. A sentence of a node that is not ok says what to do, in the words of
// a person who stands before the box. A node whose cause is known does not shout: it hangs under the cause (Because), and the cause is at least as
// bad as what it causes. With the network cable out, that other boxes and the central server are out of reach is no news; the cable is.
// What is over everything is one sentence: the worst of the nodes that nothing else explains, the earlier one in the order of Kinds when two are equal.
//
// As JSON, for scripts, the steward and the status page:
//
//	{"ok": false, "state": "trouble",
//	 "sentence": {"de": "Kein Netz: das Netzwerkkabel einstecken.", "en": "No network: plug in the network cable."},
//	 "more": 0,
//	 "nodes": [
//	  {"id": "network", "kind": "network", "state": "trouble", "sentence": {"de": "...", "en": "..."}},
//	  {"id": "peer:box2.example", "kind": "peer", "name": "box2.example", "state": "look", "sentence": {...}, "because": "network"}]}
//
// Nodes stand in the order of Kinds; a cause stands before what it explains; because is an id. A part that this machine does not have has no node.
// "waits": true is on a node that is ok and not there yet: a box that is still looked for, a line that nobody has answered on so far.
// detail is for whoever looks after the box: texts of errors, which Public leaves out. Nothing here names users or rooms.
package health

import (
	"cmp"
	"slices"
)

// State is how well a node is.
type State string

// States from good to bad.
const (
	OK      State = "ok"
	Look    State = "look"    // somebody should look at it; people can write
	Trouble State = "trouble" // something does not work
)

func (s State) rank() int { return slices.Index([]State{OK, Look, Trouble}, s) }

func worse(a, b State) State {
	if b.rank() > a.rank() {
		return b
	}
	return a
}

// Kind is which part of the box a node stands for.
type Kind string

// Kinds, in the order in which nodes stand. What can be a cause comes before what it may cause.
const (
	Power        Kind = "power"
	Machine      Kind = "machine" // what init cannot help itself with, such as a disk that cannot be mounted
	Temperature  Kind = "temperature"
	Memory       Kind = "memory"
	Disk         Kind = "disk"
	Database     Kind = "database"
	Homeserver   Kind = "homeserver"
	Services     Kind = "services"
	Provisioning Kind = "provisioning"
	Network      Kind = "network"
	Setup        Kind = "setup" // whether somebody looks after the box
	Clock        Kind = "clock"
	Links        Kind = "links"
	Line         Kind = "link" // one serial line or radio
	Peer         Kind = "peer"
	Hub          Kind = "hub"
	Server       Kind = "server"
	Certificate  Kind = "certificate"
	Update       Kind = "update"
	Backup       Kind = "backup"
	Courier      Kind = "courier" // the stick that carries messages
)

// Kinds lists all of them in order.
var kinds = []Kind{Power, Machine, Temperature, Memory, Disk, Database, Homeserver, Services, Provisioning, Network, Setup, Clock, Links, Line, Peer, Hub, Server, Certificate, Update, Backup, Courier}

// Sentence is a text for people.
type Sentence struct {
	DE string `json:"de"`
	EN string `json:"en"`
}

// In gives the sentence in a language: "de", or English for everything else.
func (s Sentence) In(lang string) string {
	if lang == "de" {
		return s.DE
	}
	return s.EN
}

// Empty says that nothing is said.
func (s Sentence) Empty() bool { return s == Sentence{} }

// Node is one part of the box.
type Node struct {
	ID       string   `json:"id"` // the kind, and for kinds with several nodes ":NAME"
	Kind     Kind     `json:"kind"`
	Name     string   `json:"name,omitempty"` // of the line, box or server
	State    State    `json:"state"`
	Sentence Sentence `json:"sentence"`
	Detail   string   `json:"detail,omitempty"`  // for the administrator
	Because  string   `json:"because,omitempty"` // id of the node that explains this one
	Waits    bool     `json:"waits,omitempty"`   // ok, but not there yet: it goes on by itself, and there is nothing to do so far

	blames []string // ids that would explain it, the likeliest first
}

// Tree is the health of a box at one moment.
type Tree struct {
	OK       bool     `json:"ok"` // State is OK
	State    State    `json:"state"`
	Sentence Sentence `json:"sentence"`
	More     int      `json:"more"` // other things to do beside the one that Sentence names
	Nodes    []Node   `json:"nodes"`
}

// Node finds a node by its id.
func (t Tree) Node(id string) (Node, bool) {
	i := slices.IndexFunc(t.Nodes, func(n Node) bool { return n.ID == id })
	if i < 0 {
		return Node{}, false
	}
	return t.Nodes[i], true
}

// Under gives the nodes that the one with this id explains; "" gives those that nothing explains.
func (t Tree) Under(id string) []Node {
	var out []Node
	for _, n := range t.Nodes {
		if n.Because == id {
			out = append(out, n)
		}
	}
	return out
}

// Shouting gives what is to be done, the worst first: the nodes that are not ok and that nothing explains.
func (t Tree) Shouting() []Node {
	var out []Node
	for _, n := range t.Nodes {
		if n.State != OK && n.Because == "" {
			out = append(out, n)
		}
	}
	slices.SortStableFunc(out, func(a, b Node) int { return cmp.Compare(b.State.rank(), a.State.rank()) })
	return out
}

// Public is the tree for anybody on the network: without details, and without the names of servers, which tell who writes to whom. Boxes keep theirs:
// they stand in the same field, and somebody has to walk to the right one.
func (t Tree) Public() Tree {
	nodes := t.Nodes
	t.Nodes = nil
	told := map[string]bool{}
	for _, n := range nodes {
		n.Detail = ""
		if n.Kind == Server {
			if n.State == OK || told[n.Because] {
				continue
			}
			told[n.Because] = true
			n.ID, n.Name, n.Sentence = string(Server), "", awayServers
			if len(told) > 1 {
				n.ID += ":" + n.Because
			}
		}
		t.Nodes = append(t.Nodes, n)
	}
	t.sum()
	return t
}

// awayServers stands for all servers that are out of reach.
var awayServers = Sentence{"Ein Server außerhalb ist nicht erreichbar: den Weg ins Internet oder ins Netz der Organisation prüfen. Nichts geht verloren.",
	"A server outside is out of reach: check the way to the Internet or to the organisation's network. Nothing is lost."}

// allWell is the sentence of a green box.
var allWell = Sentence{"Alles in Ordnung.", "All is well."}

// Judge makes the tree.
func Judge(f Facts) Tree {
	var t Tree
	for _, k := range kinds {
		t.Nodes = append(t.Nodes, nodesOf(k, f)...)
	}
	explain(t.Nodes)
	t.sum()
	return t
}

// sum makes the one sentence out of the nodes.
func (t *Tree) sum() {
	t.State, t.Sentence, t.More = OK, allWell, 0
	if todo := t.Shouting(); len(todo) > 0 {
		t.State, t.Sentence, t.More = todo[0].State, todo[0].Sentence, len(todo)-1
	}
	t.OK = t.State == OK
}

// explain hangs each node that is not ok under the first of those it blames that is not ok either, and makes causes as bad as their consequences.
func explain(nodes []Node) {
	at := make(map[string]int, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		at[n.ID] = i
		if n.State == OK {
			continue
		}
		for _, id := range n.blames {
			// Only nodes that stand before can be found, so no two blame each other.
			if c, ok := at[id]; ok && c != i && nodes[c].State != OK {
				n.Because = id
				break
			}
		}
	}
	for i := len(nodes) - 1; i >= 0; i-- {
		if c, ok := at[nodes[i].Because]; ok {
			nodes[c].State = worse(nodes[c].State, nodes[i].State)
		}
	}
}
