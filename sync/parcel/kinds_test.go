// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"fmt"
	"strings"

	"hallig/appliance/event"
)

// kinds are all sorts of events of the corpus. Contents are written as the usual clients and servers write them.
func kinds() []kind {
	return append(append(append(messages(), members()...), settings()...), oddities()...)
}

func messages() []kind {
	m := `"m.mentions":{},`
	return []kind{
		{"text", 330, func(r *life, b int, u string) {
			r.message(b, u, `{"body":`+quoted(r.line())+`,`+m+`"msgtype":"m.text"}`)
		}},
		{"text without mentions", 60, func(r *life, b int, u string) { r.message(b, u, `{"body":`+quoted(r.line())+`,"msgtype":"m.text"}`) }},
		{"reply", 70, func(r *life, b int, u string) {
			r.message(b, u, `{"body":`+quoted(r.line())+`,"m.mentions":{"user_ids":["`+r.sender(1-b, r.users[1-b][0])+`"]},`+r.reply()+`,"msgtype":"m.text"}`)
		}},
		{"reply with fallback", 10, func(r *life, b int, u string) {
			s, to := r.line(), r.sender(1-b, r.users[1-b][1])
			r.message(b, u, `{"body":`+quoted("> <"+to+"> "+r.line()+"\n\n"+s)+`,"format":"org.matrix.custom.html","formatted_body":`+
				quoted(`<mx-reply><blockquote><a href="https://matrix.to/#/`+string(r.id)+`/`+r.some()+`?via=`+r.boxes[0].server+`">In reply to</a> <a href="https://matrix.to/#/`+to+`">`+to+`</a><br>`+r.line()+`</blockquote></mx-reply>`+s)+`,`+r.reply()+`,"msgtype":"m.text"}`)
		}},
		{"thread", 40, func(r *life, b int, u string) {
			r.message(b, u, `{"body":`+quoted(r.line())+`,`+m+r.thread()+`,"msgtype":"m.text"}`)
		}},
		{"formatted", 25, func(r *life, b int, u string) {
			s, o := r.line(), r.line()
			r.message(b, u, `{"body":`+quoted("**"+s+"** "+o)+`,"format":"org.matrix.custom.html","formatted_body":`+quoted("<strong>"+s+"</strong> "+o)+`,`+m+`"msgtype":"m.text"}`)
		}},
		{"mention", 25, func(r *life, b int, u string) {
			to, s := r.sender(1-b, r.users[1-b][2]), r.line()
			r.message(b, u, `{"body":`+quoted(r.named(r.users[1-b][2])+": "+s)+`,"format":"org.matrix.custom.html","formatted_body":`+
				quoted(`<a href="https://matrix.to/#/`+to+`">`+r.named(r.users[1-b][2])+`</a>: `+s)+`,"m.mentions":{"user_ids":["`+to+`"]},"msgtype":"m.text"}`)
		}},
		{"edit", 20, func(r *life, b int, u string) {
			s := r.line()
			r.message(b, u, `{"body":`+quoted("* "+s)+`,`+m+`"m.new_content":{"body":`+quoted(s)+`,`+m+`"msgtype":"m.text"},"m.relates_to":{"event_id":"`+r.some()+`","rel_type":"m.replace"},"msgtype":"m.text"}`)
		}},
		{"priority text", 15, func(r *life, b int, u string) {
			r.message(b, u, `{"body":`+quoted(r.line())+`,"msgtype":"m.text","org.hallig.priority":"flash"}`)
		}},
		{"notice", 20, func(r *life, b int, u string) {
			r.message(b, u, `{"body":`+quoted(r.line())+`,"msgtype":"m.notice"}`)
		}},
		{"emote", 2, func(r *life, b int, u string) {
			r.message(b, u, `{"body":`+quoted(r.line())+`,`+m+`"msgtype":"m.emote"}`)
		}},
		{"image", 15, func(r *life, b int, u string) {
			name := fmt.Sprintf("IMG_2026%04d_%06d.jpg", r.rnd.IntN(1232), r.rnd.IntN(240000))
			r.message(b, u, `{"body":"`+name+`","filename":"`+name+`","info":`+r.info(4032, 3024)+`,`+m+`"msgtype":"m.image","url":"`+r.mxc(b)+`"}`)
		}},
		{"encrypted image in the clear", 2, func(r *life, b int, u string) {
			r.message(b, u, `{"body":"lage.png","file":`+r.file()+`,"info":{"h":1080,"mimetype":"image/png","size":812331,"w":1920},"msgtype":"m.image"}`)
		}},
		{"file", 6, func(r *life, b int, u string) {
			r.message(b, u, fmt.Sprintf(`{"body":"Einsatzplan %d.pdf","info":{"mimetype":"application/pdf","size":%d},"msgtype":"m.file","url":"%s"}`, r.rnd.IntN(40), r.rnd.IntN(1<<22), r.mxc(b)))
		}},
		{"voice", 6, func(r *life, b int, u string) {
			ms := r.rnd.IntN(60000)
			var wave []string
			for range 30 {
				wave = append(wave, fmt.Sprint(r.rnd.IntN(1024)))
			}
			r.message(b, u, fmt.Sprintf(`{"body":"Voice message.ogg","info":{"duration":%d,"mimetype":"audio/ogg","size":%d},%s"msgtype":"m.audio","org.matrix.msc1767.audio":{"duration":%d,"waveform":[%s]},"org.matrix.msc1767.text":"Voice message.ogg","org.matrix.msc3245.voice":{},"url":"%s"}`,
				ms, r.rnd.IntN(1<<20), m, ms, strings.Join(wave, ","), r.mxc(b)))
		}},
		{"video", 2, func(r *life, b int, u string) {
			r.message(b, u, `{"body":"deich.mp4","info":{"duration":12040,"h":720,"mimetype":"video/mp4","size":12331881,"thumbnail_info":{"h":450,"mimetype":"image/jpeg","size":31882,"w":800},"thumbnail_url":"`+r.mxc(b)+`","w":1280},"msgtype":"m.video","url":"`+r.mxc(b)+`"}`)
		}},
		{"location", 10, func(r *life, b int, u string) {
			geo := fmt.Sprintf("geo:54.%06d,9.%06d;u=%d", r.rnd.IntN(1000000), r.rnd.IntN(1000000), r.rnd.IntN(40))
			r.message(b, u, `{"body":"Location was shared at 2026-11-26T19:00:00Z","geo_uri":"`+geo+`","msgtype":"m.location","org.matrix.msc1767.text":"Location was shared at 2026-11-26T19:00:00Z","org.matrix.msc3488.asset":{"type":"m.self"},"org.matrix.msc3488.location":{"uri":"`+geo+`"},"org.matrix.msc3488.ts":`+fmt.Sprint(r.ts)+`}`)
		}},
		{"reaction", 60, func(r *life, b int, u string) {
			key := []string{"👍️", "✅", "👀", "❤️", "verstanden"}[r.rnd.IntN(5)]
			r.add(b, u, "m.reaction", nil, `{"m.relates_to":{"event_id":"`+r.some()+`","key":"`+key+`","rel_type":"m.annotation"}}`, nil)
		}},
		{"redaction", 15, func(r *life, b int, u string) {
			target := event.ID(r.some())
			r.add(b, u, "m.room.redaction", nil, `{"reason":"Tippfehler"}`, func(p *event.Proto) { p.Redacts = target })
		}},
		{"redaction without reason", 5, func(r *life, b int, u string) {
			target := event.ID(r.some())
			r.add(b, u, "m.room.redaction", nil, `{}`, func(p *event.Proto) { p.Redacts = target })
		}},
		{"sticker", 3, func(r *life, b int, u string) {
			r.add(b, u, "m.sticker", nil, `{"body":"Landing","info":{"h":200,"mimetype":"image/png","size":73602,"thumbnail_info":{"h":200,"mimetype":"image/png","size":73602,"w":140},"thumbnail_url":"`+r.mxc(b)+`","w":140},"url":"`+r.mxc(b)+`"}`, nil)
		}},
		{"poll", 3, func(r *life, b int, u string) {
			q, x, y := r.line(), r.line(), r.line()
			r.add(b, u, "org.matrix.msc3381.poll.start", nil, `{"org.matrix.msc1767.text":`+quoted(q+"\n1. "+x+"\n2. "+y)+`,"org.matrix.msc3381.poll.start":{"answers":[{"id":"`+r.letters(16, alphabet)+`","org.matrix.msc1767.text":`+quoted(x)+`},{"id":"`+r.letters(16, alphabet)+`","org.matrix.msc1767.text":`+quoted(y)+`}],"kind":"org.matrix.msc3381.poll.disclosed","max_selections":1,"question":{"body":`+quoted(q)+`,"msgtype":"m.text","org.matrix.msc1767.text":`+quoted(q)+`}}}`, nil)
		}},
		{"poll answer", 8, func(r *life, b int, u string) {
			r.add(b, u, "org.matrix.msc3381.poll.response", nil, `{"m.relates_to":{"event_id":"`+r.some()+`","rel_type":"m.reference"},"org.matrix.msc3381.poll.response":{"answers":["`+r.letters(16, alphabet)+`"]}}`, nil)
		}},
		{"encrypted", 140, func(r *life, b int, u string) { r.encrypted(b, u, 150+r.rnd.IntN(200), "") }},
		{"encrypted reply", 20, func(r *life, b int, u string) { r.encrypted(b, u, 250+r.rnd.IntN(200), r.reply()+",") }},
		{"call invite", 2, func(r *life, b int, u string) {
			r.add(b, u, "m.call.invite", nil, `{"call_id":"c`+fmt.Sprint(r.ts)+`","capabilities":{"m.call.dtmf":true,"m.call.transferee":false},"lifetime":60000,"offer":{"sdp":"v=0\r\no=- 3147 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:`+r.letters(4, alphabet)+`\r\na=ice-pwd:`+r.letters(24, alphabet)+`\r\na=fingerprint:sha-256 9A:11\r\n","type":"offer"},"party_id":"`+r.letters(10, capitals)+`","version":"1"}`, nil)
		}},
		{"call candidates", 3, func(r *life, b int, u string) {
			r.add(b, u, "m.call.candidates", nil, `{"call_id":"c1790000000","candidates":[{"candidate":"candidate:842163049 1 udp 1677729535 192.168.7.12 46154 typ host generation 0","sdpMLineIndex":0,"sdpMid":"0"}],"party_id":"QBUAZIFURK","version":"1"}`, nil)
		}},
		{"call hangup", 2, func(r *life, b int, u string) {
			r.add(b, u, "m.call.hangup", nil, `{"call_id":"c1790000000","party_id":"QBUAZIFURK","reason":"user_hangup","version":"1"}`, nil)
		}},
	}
}

func members() []kind {
	return []kind{
		{"profile change", 10, func(r *life, b int, u string) { r.join(b, u, `"avatar_url":"`+r.mxc(b)+`",`) }},
		{"join", 12, func(r *life, b int, _ string) {
			u := fmt.Sprintf("helfer%d", r.rnd.IntN(100000))
			r.join(b, u, "")
		}},
		{"join with avatar", 8, func(r *life, b int, _ string) {
			u := fmt.Sprintf("%s.%s", strings.ToLower(r.letters(5, alphabet)), strings.ToLower(r.letters(8, alphabet)))
			r.join(b, u, `"avatar_url":"`+r.mxc(b)+`",`)
		}},
		{"restricted join", 3, func(r *life, b int, _ string) {
			u := fmt.Sprintf("gast%d", r.rnd.IntN(100000))
			r.add(b, u, "m.room.member", ptr(r.sender(b, u)), `{"displayname":"Gast","join_authorised_via_users_server":"`+r.sender(1-b, r.users[1-b][0])+`","membership":"join"}`, nil)
			r.cosign(b)
		}},
		{"invite", 5, func(r *life, b int, u string) {
			r.member3(b, u, r.sender(1-b, fmt.Sprintf("helfer%d", r.rnd.IntN(100000))), `{"displayname":"Helfer","is_direct":true,"membership":"invite"}`)
			r.cosign(b)
		}},
		{"leave", 6, func(r *life, b int, u string) { r.member3(b, u, r.sender(b, u), `{"membership":"leave"}`) }},
		{"kick", 2, func(r *life, b int, u string) {
			r.member3(b, u, r.sender(1-b, r.users[1-b][3]), `{"displayname":"K. O'Neill","membership":"leave","reason":`+quoted(r.line())+`}`)
		}},
		{"ban", 1, func(r *life, b int, u string) {
			r.member3(b, u, "@spam:evil.example", `{"membership":"ban","reason":"Werbung"}`)
		}},
		{"knock", 2, func(r *life, b int, _ string) {
			u := fmt.Sprintf("helfer%d", r.rnd.IntN(100000))
			r.add(b, u, "m.room.member", ptr(r.sender(b, u)), `{"displayname":"Helfer","membership":"knock","reason":"Bitte um Einlass"}`, nil)
		}},
		{"third-party invite", 1, func(r *life, b int, u string) {
			r.setting(b, u, "m.room.third_party_invite", r.letters(43, alphabet), `{"display_name":"a...@e...","key_validity_url":"https://id.example/_matrix/identity/v2/pubkey/isvalid","public_key":"`+r.b64(32)+`","public_keys":[{"key_validity_url":"https://id.example/_matrix/identity/v2/pubkey/isvalid","public_key":"`+r.b64(32)+`"}]}`)
		}},
	}
}

func settings() []kind {
	set := func(name string, weight int, typ string, content func(r *life) string) kind {
		return kind{name, weight, func(r *life, b int, u string) { r.setting(b, u, typ, "", content(r)) }}
	}
	is := func(s string) func(*life) string { return func(*life) string { return s } }
	return []kind{
		set("power levels", 2, "m.room.power_levels", func(r *life) string {
			u := append([]string{}, r.users[0]...)
			return r.powers(append(u, r.users[1][:1+r.rnd.IntN(2)]...)...)
		}),
		set("join rules", 1, "m.room.join_rules", is(`{"join_rule":"invite"}`)),
		set("restricted join rules", 1, "m.room.join_rules", is(`{"allow":[{"room_id":"!spaceDEFghiJKLmno:hq.example","type":"m.room_membership"}],"join_rule":"restricted"}`)),
		set("name", 3, "m.room.name", func(r *life) string { return `{"name":` + quoted(r.line()) + `}` }),
		set("topic", 4, "m.room.topic", func(r *life) string {
			s := r.line()
			return `{"m.topic":{"m.text":[{"body":` + quoted(s) + `}]},"topic":` + quoted(s) + `}`
		}),
		set("avatar", 1, "m.room.avatar", func(r *life) string {
			return `{"info":{"h":512,"mimetype":"image/png","size":71233,"w":512},"url":"` + r.mxc(0) + `"}`
		}),
		set("canonical alias", 1, "m.room.canonical_alias", func(r *life) string {
			return `{"alias":"#lage:` + r.boxes[0].server + `","alt_aliases":["#lage-nord:` + r.boxes[1].server + `"]}`
		}),
		set("history visibility", 1, "m.room.history_visibility", is(`{"history_visibility":"shared"}`)),
		set("guest access", 1, "m.room.guest_access", is(`{"guest_access":"can_join"}`)),
		set("encryption", 1, "m.room.encryption", is(`{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_ms":604800000,"rotation_period_msgs":100}`)),
		set("tombstone", 1, "m.room.tombstone", func(r *life) string {
			return `{"body":"Dieser Raum wurde ersetzt.","replacement_room":"!` + r.letters(18, alphabet) + `:` + r.boxes[0].server + `"}`
		}),
		set("pinned", 2, "m.room.pinned_events", func(r *life) string { return `{"pinned":["` + r.some() + `","` + r.some() + `"]}` }),
		set("server acl", 1, "m.room.server_acl", is(`{"allow":["*"],"allow_ip_literals":false,"deny":["evil.example","*.spam.example"]}`)),
		{"space child", 2, func(r *life, b int, u string) {
			r.setting(b, u, "m.space.child", "!"+r.letters(18, alphabet)+":"+r.boxes[b].server, `{"order":"05","suggested":true,"via":["`+r.boxes[b].server+`"]}`)
		}},
		{"space parent", 1, func(r *life, b int, u string) {
			r.setting(b, u, "m.space.parent", "!spaceDEFghiJKLmno:hq.example", `{"canonical":true,"via":["hq.example"]}`)
		}},
		set("hallig priority", 1, "org.hallig.priority", is(`{"default":"routine","flash":{"power":50,"per_hour":6}}`)),
		{"hallig post", 3, func(r *life, b int, u string) {
			r.setting(b, u, "org.hallig.post", u, `{"crew":`+fmt.Sprint(r.rnd.IntN(9))+`,"geo":"geo:54.4812,9.0511","status":"frei"}`)
		}},
		set("create", 0, "m.room.create", func(r *life) string {
			return `{"creator":"` + r.sender(0, "anna") + `","m.federate":true,"predecessor":{"event_id":"` + r.some() + `","room_id":"!old:` + r.boxes[0].server + `"},"room_version":"` + r.version.ID + `","type":"m.space"}`
		}),
		{"call membership", 3, func(r *life, b int, u string) {
			dev := r.letters(10, capitals)
			r.setting(b, u, "org.matrix.msc3401.call.member", "_"+r.sender(b, u)+"_"+dev, `{"application":"m.call","call_id":"","device_id":"`+dev+`","expires":14400000,"foci_preferred":[{"livekit_alias":"`+string(r.id)+`","livekit_service_url":"https://livekit.example","type":"livekit"}],"focus_active":{"focus_selection":"oldest_membership","type":"livekit"},"scope":"m.room"}`)
		}},
		{"widget", 1, func(r *life, b int, u string) {
			r.setting(b, u, "im.vector.modular.widgets", "w"+r.letters(8, alphabet), `{"creatorUserId":"`+r.sender(b, u)+`","data":{"title":"Karte"},"id":"w1","name":"Karte","type":"m.custom","url":"https://karte.example/?room=$matrix_room_id&theme=$theme"}`)
		}},
	}
}

// oddities are what a codec may stumble over.
func oddities() []kind {
	return []kind{
		{"empty content", 1, func(r *life, b int, u string) { r.add(b, u, "org.example.empty", nil, `{}`, nil) }},
		{"empty message", 1, func(r *life, b int, u string) { r.message(b, u, `{}`) }},
		{"empty body", 1, func(r *life, b int, u string) { r.message(b, u, `{"body":"","msgtype":"m.text"}`) }},
		{"large integers", 1, func(r *life, b int, u string) {
			r.add(b, u, "org.example.numbers", nil, `{"max":9007199254740991,"min":-9007199254740991,"negative":-1,"zero":0}`, nil)
		}},
		{"deep", 1, func(r *life, b int, u string) {
			r.add(b, u, "org.example.deep", nil, strings.Repeat(`{"a":[`, 60)+"1"+strings.Repeat(`]}`, 60), nil)
		}},
		{"unicode", 1, func(r *life, b int, u string) {
			r.message(b, u, `{"body":"\u0007 \ud83d\ude92 \u2028 \u007f e\u0301 \ufeff קו שבור 水位 \\ \" / \b\f\n\r\t","ключ":"значение","msgtype":"m.text"}`)
		}},
		{"control characters", 1, func(r *life, b int, u string) {
			r.message(b, u, `{"body":"\u0000 a \u0001 b","msgtype":"m.text"}`)
		}},
		{"long text", 1, func(r *life, b int, u string) {
			r.message(b, u, `{"body":`+quoted(strings.Join(r.texts[:100], "\n"))+`,"msgtype":"m.text"}`)
		}},
		{"unknown type", 2, func(r *life, b int, u string) {
			r.add(b, u, "org.example.unknown", ptr("a\nb"), `{"body":12,"list":[1,-5,null,true,{"x":"\u2028"}],"more":`+quoted(r.line())+`}`, nil)
		}},
		{"ids that are none", 1, func(r *life, b int, u string) {
			r.message(b, u, `{"a":"$short","b":"@:","c":"mxc://","d":"!","`+r.sender(b, u)+`":{"@x:y":{}},"e":"$`+strings.Repeat("A", 42)+`_","f":"$`+strings.Repeat("_", 43)+`"}`)
		}},
		{"fork", 20, func(r *life, b int, u string) { // two heads, joined by what follows
			other := r.heads
			r.say(b, r.line())
			mine := r.heads
			r.heads = other
			r.depth--
			r.say(1-b, r.line())
			r.heads = append(r.heads, mine...)
		}},
		{"many parents", 1, func(r *life, b int, u string) {
			for i := range 8 {
				r.heads = append(r.heads, r.events[len(r.events)-2-i].PDU.ID)
			}
			r.say(b, r.line())
		}},
		{"more auth events", 2, func(r *life, b int, u string) {
			r.add(b, u, "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`, func(p *event.Proto) { p.Auth = append(p.Auth, r.rules, r.member[r.users[1-b][1]]) })
		}},
		{"two signatures", 1, func(r *life, b int, u string) {
			r.say(b, r.line())
			r.cosign(b)
		}},
		{"origin", 3, func(r *life, b int, u string) {
			r.add(b, u, "m.room.message", nil, `{"body":`+quoted(r.line())+`,"msgtype":"m.text"}`, func(p *event.Proto) { p.Origin = r.boxes[b].server })
		}},
		{"another origin", 1, func(r *life, b int, u string) {
			r.add(b, u, "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`, func(p *event.Proto) { p.Origin = "hq.example" })
		}},
		{"redacted message", 10, func(r *life, b int, u string) {
			r.say(b, r.line())
			r.redactLast()
		}},
		{"redacted member", 1, func(r *life, b int, u string) {
			r.member3(b, u, r.sender(b, u), `{"displayname":"weg","membership":"join"}`)
			r.redactLast()
		}},
		{"depth of its own", 1, func(r *life, b int, u string) {
			r.add(b, u, "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`, func(p *event.Proto) { p.Depth = 1 << 52 })
		}},
		{"clock far off", 1, func(r *life, b int, u string) {
			r.add(b, u, "m.room.message", nil, `{"body":"x","msgtype":"m.text"}`, func(p *event.Proto) { p.TS = 12 })
		}},
	}
}
