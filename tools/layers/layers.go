// SPDX-License-Identifier: EUPL-1.2

// Package layers keeps the rooms of the house apart. It holds the table of rooms (who may use whom, which outside
// library lives where, and why it is there) and nothing else; its test reads the real imports with `go list` and names each breach.
//
// Whoever needs a new arrow changes the table here, in the commit that needs it, with the reason in the commit's body.
package layers

// Room is one package of the house: what of ours it may import, besides the standard library and its outside giants.
type Room struct {
	Uses []string // rooms, relative to the module; a trailing "/..." takes all rooms below
	Pure bool     // values in, values out: no file, network, clock, lock or log
}

// Rooms is the table of the house. A package that is not listed is a breach; "tools/..." rooms are free to look
// everywhere, as they test, measure and pack.
var Rooms = map[string]Room{
	"appliance/store/compact": {Pure: true, Uses: []string{"appliance/event"}},
	"appliance/provision":     {Uses: []string{"appliance/event", "appliance/signet", "radio/airtime"}},
	"appliance/policy":        {Uses: []string{"appliance/provision", "appliance/signet"}},
	"appliance/signet":        {},
	"appliance/backup":        {},
	"appliance/fleet":         {Uses: []string{"appliance/provision"}},

	"appliance":           {Uses: []string{"appliance/...", "sync/...", "radio", "radio/airtime", "radio/serial"}},
	"appliance/event":     {Pure: true},
	"appliance/rules":     {Pure: true, Uses: []string{"appliance/event"}},
	"appliance/store":     {Uses: []string{"appliance/wayback", "appliance/event", "appliance/store/compact"}},
	"appliance/room":      {Uses: []string{"appliance/event", "appliance/rules", "appliance/store"}},
	"appliance/herald":    {Uses: []string{"appliance/event", "appliance/room", "appliance/store"}},
	"appliance/tidings":   {Uses: []string{"appliance/event", "appliance/herald", "appliance/store"}},
	"appliance/conflict":  {Uses: []string{"appliance/event", "appliance/herald", "appliance/room", "appliance/rules", "appliance/store"}},
	"appliance/delivery":  {Uses: []string{"appliance/event", "appliance/priority", "appliance/store"}},
	"appliance/feed":      {Uses: []string{"appliance/event", "appliance/rules", "appliance/store", "appliance/room", "appliance/account"}},
	"appliance/account":   {Uses: []string{"appliance/event", "appliance/store", "appliance/room"}},
	"appliance/acme":      {},
	"appliance/cert":      {},
	"appliance/clock":     {},
	"appliance/lan":       {Pure: true, Uses: []string{"appliance/lan/dhcp", "appliance/lan/mdns"}},
	"appliance/health":    {Pure: true},
	"appliance/lan/dhcp":  {Pure: true},
	"appliance/nic":       {Uses: []string{"appliance/lan", "appliance/lan/dhcp", "appliance/lan/mdns", "appliance/lan/zone"}},
	"appliance/lan/mdns":  {Pure: true},
	"appliance/lan/zone":  {Pure: true},
	"appliance/media":     {Uses: []string{"appliance/event", "appliance/store", "appliance/room"}},
	"appliance/csapi":     {Uses: []string{"appliance/event", "appliance/priority", "appliance/rules", "appliance/store", "appliance/room", "appliance/feed", "appliance/account", "appliance/media", "appliance/web"}},
	"appliance/metric":    {Pure: true},
	"appliance/page":      {Uses: []string{"appliance/health"}},
	"appliance/admin":     {Uses: []string{"appliance/metric", "appliance/page", "appliance/cert", "appliance/event", "appliance/account", "appliance/store", "appliance/health", "appliance/lan", "appliance/steward"}},
	"appliance/web":       {},
	"appliance/vault":     {},
	"appliance/wayback":   {},
	"appliance/plug":      {Uses: []string{"appliance/steward"}},
	"appliance/qrtext":    {},
	"cmd/init":            {Uses: []string{"appliance/disk", "appliance/lan", "appliance/logring", "appliance/plug", "appliance/provision", "appliance/qrtext", "appliance/steward", "appliance/supervise", "appliance/update", "appliance/wayback"}},
	"appliance/steward":   {},
	"appliance/socket":    {},
	"appliance/disk":      {Uses: []string{"appliance/steward"}},
	"appliance/logring":   {},
	"appliance/supervise": {Uses: []string{"appliance/steward"}},
	"appliance/update":    {Uses: []string{"appliance/signet", "appliance/wayback"}},
	"appliance/priority":  {Pure: true},
	"sync/precedence":     {Uses: []string{"appliance/event", "appliance/priority", "appliance/room", "appliance/rules", "appliance/store"}},
	"sync/peer":           {Pure: true},
	"sync/parcel":         {Pure: true, Uses: []string{"appliance/event", "sync/peer", "sync/parcel/prose"}},
	"sync/parcel/prose":   {Pure: true},
	"sync/recon":          {Pure: true, Uses: []string{"appliance/event"}},
	"sync/federation":     {Uses: []string{"appliance/event", "appliance/rules", "appliance/store", "appliance/room", "appliance/account", "appliance/feed", "appliance/media", "sync/hub/api", "sync/peer"}},
	"sync/outbox":         {Uses: []string{"appliance/event", "appliance/priority", "appliance/store", "sync/precedence", "sync/parcel", "sync/recon", "sync/peer"}},
	"sync/inbox":          {Uses: []string{"appliance/event", "appliance/rules", "appliance/store", "appliance/room", "sync/parcel", "sync/recon", "sync/peer"}},
	"sync/link":           {Uses: []string{"appliance/event", "appliance/priority", "sync/precedence", "appliance/store", "appliance/room", "sync/hub/api", "sync/peer", "sync/parcel", "sync/recon", "sync/outbox", "sync/inbox"}},
	"sync/courier":        {Uses: []string{"appliance/event", "sync/precedence", "appliance/store", "appliance/room", "sync/peer", "sync/parcel", "sync/recon", "sync/outbox", "sync/inbox"}},
	"sync/p2p":            {Uses: []string{"sync/peer"}},
	"sync/muster":         {Uses: []string{"sync/peer"}},
	"sync/identity":       {Uses: []string{"appliance/event", "sync/federation", "sync/peer"}},
	"sync/relay":          {Uses: []string{"appliance/store", "sync/peer", "sync/parcel"}},
	"sync/hub":            {Uses: []string{"appliance/acme", "appliance/cert", "appliance/event", "appliance/health", "appliance/metric", "appliance/policy", "appliance/signet", "appliance/socket", "appliance/store", "sync/courier", "sync/federation", "sync/hub/api", "sync/hub/depot", "sync/hub/ferry", "sync/hub/fleet", "sync/hub/letter", "sync/hub/nodes", "sync/hub/replica", "sync/hub/shelf", "sync/hub/spool", "sync/identity", "sync/muster", "sync/p2p", "sync/parcel", "sync/peer"}},
	"sync/hub/api":        {Pure: true, Uses: []string{"appliance/event"}},
	"sync/hub/fleet":      {Uses: []string{"appliance/health", "appliance/page", "appliance/policy", "sync/hub/api", "sync/hub/shelf"}},
	"sync/hub/depot":      {Uses: []string{"appliance/media", "appliance/room", "appliance/store", "sync/federation", "sync/hub/api", "sync/hub/desk"}},
	"sync/hub/desk":       {},
	"sync/hub/ferry":      {Uses: []string{"appliance/event", "sync/hub/api", "sync/parcel", "sync/peer"}},
	"sync/hub/letter":     {Uses: []string{"appliance/event", "sync/federation", "sync/hub/api", "sync/hub/spool"}},
	"sync/hub/nodes":      {},
	"sync/hub/replica":    {Uses: []string{"appliance/event", "appliance/room", "appliance/store", "sync/federation", "sync/hub/api", "sync/hub/desk"}},
	"sync/hub/shelf":      {Uses: []string{"appliance/health", "appliance/update"}},
	"sync/hub/spool":      {Uses: []string{"appliance/event"}},
	"radio":               {Uses: []string{"radio/airtime", "radio/frame", "radio/arq", "radio/channel", "radio/serial"}},
	"radio/airtime":       {Pure: true},
	"radio/frame":         {Pure: true},
	"radio/arq":           {Pure: true, Uses: []string{"radio/airtime", "radio/frame"}},
	"radio/cast":          {Pure: true},
	"radio/channel":       {Pure: true, Uses: []string{"radio/airtime", "radio/frame", "radio/arq", "radio/cast"}},
	"radio/serial":        {Uses: []string{"radio/airtime", "radio/frame"}},
	"radio/sham":          {Uses: []string{"radio/frame"}},
	"radio/acm":           {},
	"radio/ether":         {},
	"cmd/hallig-lan":      {Uses: []string{"appliance/nic"}},
	"cmd/hallig":          {Uses: []string{"appliance/policy", "appliance/qrtext", "appliance/signet", "appliance/steward", "appliance/update", "appliance", "appliance/admin", "appliance/health", "appliance/fleet", "appliance/provision", "appliance/backup", "sync/peer"}},
	"cmd/hallig-hub":      {Uses: []string{"sync/hub/fleet", "appliance/cert", "sync/hub", "sync/hub/spool"}},
	"cmd/hallig-acm":      {Uses: []string{"radio/acm", "radio/serial"}},
	"cmd/hallig-vault":    {Uses: []string{"appliance/vault"}},
	"tools/layers":        {Uses: []string{"..."}},
	"tools/bench":         {Uses: []string{"..."}},
	"tools/bigroom":       {Uses: []string{"appliance/event", "appliance/rules", "sync/federation", "tools/testpeer"}},
	"tools/demo":          {Uses: []string{"..."}},
	"tools/chaos":         {Uses: []string{"..."}},
	"tools/testbox":       {Uses: []string{"appliance", "appliance/admin", "tools/testpeer", "tools/testport"}},
	"tools/homecoming":    {Uses: []string{"appliance", "appliance/admin", "radio/serial", "tools/matrixclient", "tools/testbox", "tools/testpeer"}},
	"tools/lab":           {Uses: []string{"..."}},
	"tools/matrixclient":  {},

	"tools/imagetest":          {Uses: []string{"..."}},
	"tools/imagetest/blocklog": {},
	"tools/imagetest/offline":  {Uses: []string{"appliance/event", "appliance/store", "tools/imagetest/vm"}},
	"tools/imagetest/pcap":     {},
	"tools/imagetest/vm":       {},
	"tools/testacme":           {Uses: []string{"tools/testport"}},
	"tools/hubsim":             {Uses: []string{"..."}},
	"tools/slowclock":          {},
	"tools/testpeer":           {Uses: []string{"tools/testport"}},
	"tools/testport":           {},
	"tools/testpostgres":       {},
}

// Giant is an outside library of weight: the one room that may know it, and why we do not write it ourselves.
type Giant struct {
	In  []string
	Why string
}

// Giants lists every direct dependency by module path. A direct import of any module that is not here is a breach.
var Giants = map[string]Giant{
	"github.com/mattn/go-sqlite3":          {In: []string{"appliance/store", "sync/hub/spool"}, Why: "the database of a box, and of a hub on one machine: one file, crash-safe, no server"},
	"github.com/jackc/pgx/v5":              {In: []string{"sync/hub/spool"}, Why: "speaks to PostgreSQL, the memory that several nodes of a hub share: pools, pipelines, LISTEN"},
	"github.com/libp2p/go-libp2p":          {In: []string{"sync/p2p"}, Why: "authenticated streams and discovery between boxes on IP networks"},
	"github.com/quic-go/quic-go":           {In: []string{"sync/p2p"}, Why: "types of the keys that libp2p's QUIC transport takes"},
	"github.com/multiformats/go-multiaddr": {In: []string{"sync/p2p"}, Why: "addresses in libp2p's form"},
	"github.com/tarm/serial":               {In: []string{"radio/serial"}, Why: "opens serial ports"},
	"github.com/gokrazy/gokrazy":           {In: []string{"cmd/init"}, Why: "the system that the image is made with: its packer (image/gok), kernels and boot loader; here the machine's addresses"},
	"github.com/makiuchi-d/gozxing":        {In: []string{"radio/frame"}, Why: "Reed-Solomon that corrects errors, not only erasures"},
	"golang.org/x/sys":                     {In: []string{"tools/bench", "cmd/init", "appliance/plug", "appliance/nic", "radio/acm", "cmd/hallig-acm", "appliance/disk", "appliance/supervise", "appliance/vault", "cmd/hallig-vault", "radio/serial", "appliance/store", "appliance/clock", "sync/p2p", "appliance/update", "appliance/backup"}, Why: "ioctls of the tty, free disk space, the kernel's clock and uptime, interface changes, direct disk writes, kexec"},
	"golang.org/x/crypto":                  {In: []string{"appliance/acme", "appliance/vault", "appliance/account", "sync/peer", "radio/frame", "radio/arq"}, Why: "ACME, argon2id, XTS, X25519, ChaCha20, Poly1305"},
	"filippo.io/age":                       {In: []string{"appliance/backup", "sync/courier"}, Why: "encrypts backups, and what travels on sticks, to a public key, in a form that other programs read"},
	"github.com/beevik/ntp":                {In: []string{"appliance/clock"}, Why: "asks time servers and checks their answers"},
	"github.com/flynn/noise":               {In: []string{"sync/peer"}, Why: "the Noise handshakes of pairing and of serial links"},
	"github.com/hanwen/go-fuse/v2":         {In: []string{"appliance/vault"}, Why: "how the kernel reaches an encrypted disk that it cannot encrypt itself"},
	"golang.org/x/sync":                    {In: []string{"appliance", "sync/federation", "sync/hub"}, Why: "errgroup owns the loops, singleflight joins equal questions"},
	"golang.org/x/image":                   {In: []string{"appliance/media"}, Why: "thumbnails: scaling and WebP"},
	"golang.org/x/time":                    {In: []string{"appliance/csapi", "sync/hub", "sync/hub/depot"}, Why: "token buckets of the rate limits, of how fast a box fetches an update, and of how fast its files are fetched"},
	"github.com/klauspost/reedsolomon":     {In: []string{"radio/cast"}, Why: "erasure coding of broadcasts"},
	"github.com/klauspost/compress":        {In: []string{"sync/parcel", "sync/link", "sync/p2p", "appliance/update", "appliance/backup"}, Why: "zstd with dictionaries for what the codec does not know; the parts of an update file; DEFLATE that keeps no memory between writes"},
	"github.com/google/renameio/v2":        {In: []string{"cmd/init", "appliance/nic", "appliance/cert", "appliance/update", "appliance", "appliance/media", "appliance/wayback", "appliance/backup", "cmd/hallig", "radio", "sync/identity", "sync/muster", "sync/hub", "sync/hub/fleet", "sync/hub/shelf"}, Why: "files appear whole or not at all"},
	"gopkg.in/yaml.v3":                     {In: []string{"appliance/csapi", "appliance"}, Why: "application service registrations are YAML"},
	"github.com/insomniacslk/dhcp":         {In: []string{"appliance/lan/dhcp"}, Why: "DHCP messages as bytes; the roles are ours, since its client has no rebinding and both its roles read the clock"},
	"github.com/vishvananda/netlink":       {In: []string{"appliance/nic"}, Why: "the kernel's interfaces, addresses and routes"},
	"github.com/miekg/dns":                 {In: []string{"appliance/acme", "appliance/lan/mdns", "appliance/lan/zone", "appliance/nic"}, Why: "DNS messages as bytes, a DNS server, signed updates of zones; the mDNS responder is ours, since no library in Go settles two boxes that have one name"},
	"rsc.io/qr":                            {In: []string{"appliance/qrtext", "sync/courier", "appliance", "cmd/hallig", "appliance/admin", "appliance/fleet", "appliance/web"}, Why: "the code a phone scans from the terminal"},
	"github.com/CycloneDX/cyclonedx-go":    {In: []string{"tools/pack"}, Why: "writes the bill of materials of an image"},
	"github.com/google/licensecheck":       {In: []string{"tools/pack"}, Why: "recognises the licences of what goes into an image"},
}

// Outsiders are modules that tests run or compare with from modules of their own (tools/dendrite, tools/oracle): either their licence or our
// own law keeps them out of the box.
var Outsiders = []string{"github.com/element-hq/dendrite", "github.com/matrix-org/gomatrixserverlib", "maunium.net/go/mautrix"}

// NotLinked says which modules a program must not link, also by way of another package: what only the hub needs stays out of the box.
var NotLinked = map[string][]string{
	"cmd/hallig":       {"github.com/jackc/pgx/v5"},
	"cmd/init":         {"github.com/jackc/pgx/v5"},
	"cmd/hallig-lan":   {"github.com/jackc/pgx/v5"},
	"cmd/hallig-acm":   {"github.com/jackc/pgx/v5"},
	"cmd/hallig-vault": {"github.com/jackc/pgx/v5"},
}
