// SPDX-License-Identifier: EUPL-1.2

package csapi

import "context"

type handler = func(context.Context, *call) (any, error)

// enterRoutes is the table of the API. Paths are as in the specification; r0 is an alias of v3 in the router.
func (h *Handler) enterRoutes() {
	h.open("GET", "/_matrix/client/versions", h.versions)
	h.open("GET", "/.well-known/matrix/client", h.wellKnownClient)
	h.sessionRoutes()
	h.userRoutes()
	h.roomRoutes()
	h.keyRoutes()
	h.pushRoutes()
	h.otherRoutes()
	if h.Delivery != nil {
		h.enter("GET", "/_hallig/v1/rooms/{room}/delivery/{event}", true, limitNone, h.delivery)
	}
	if h.Media != nil {
		h.mediaRoutes()
	}
}

// open enters a route that needs no token, authed one that does; limited ones count against a rate.
func (h *Handler) open(method, path string, f handler) { h.enter(method, path, false, limitNone, f) }
func (h *Handler) authed(method, path string, f handler) {
	h.enter(method, "/_matrix/client/v3"+path, true, limitNone, f)
}
func (h *Handler) writes(method, path string, f handler) {
	h.enter(method, "/_matrix/client/v3"+path, true, limitWrite, f)
}

func (h *Handler) enter(method, path string, auth bool, limit limitKind, f handler) {
	h.routes.add(method, path, &endpoint{name: path, auth: auth, limit: limit, handle: f})
}

func (h *Handler) sessionRoutes() {
	h.open("GET", "/_matrix/client/v3/login", h.loginFlows)
	h.enter("POST", "/_matrix/client/v3/login", false, limitLogin, h.login)
	h.enter("POST", "/_matrix/client/v3/refresh", false, limitLogin, h.refresh)
	h.enter("POST", "/_matrix/client/v3/register", false, limitRegister, h.register)
	h.enter("GET", "/_matrix/client/v3/register/available", false, limitRegister, h.registerAvailable)
	h.enter("GET", "/_matrix/client/v1/register/m.login.registration_token/validity", false, limitRegister, h.registrationTokenValidity)
	h.open("GET", "/_synapse/admin/v1/register", h.sharedSecretNonce)
	h.open("POST", "/_synapse/admin/v1/register", h.registerShared)
	h.enter("POST", "/_matrix/client/v1/login/get_token", true, limitLogin, h.loginToken)
	h.authed("POST", "/logout", h.logout)
	h.authed("POST", "/logout/all", h.logoutAll)
	h.authed("GET", "/account/whoami", h.whoami)
	h.authed("POST", "/account/deactivate", h.deactivate)
	h.authed("POST", "/account/password", h.changePassword)
	h.authed("GET", "/account/3pid", h.noThreePIDs)
	h.authed("POST", "/user/{user}/openid/request_token", h.openIDToken)
	h.authed("GET", "/capabilities", h.capabilities)
	h.authed("GET", "/devices", h.devices)
	h.authed("GET", "/devices/{device}", h.device)
	h.authed("PUT", "/devices/{device}", h.renameDevice)
	h.authed("DELETE", "/devices/{device}", h.deleteDevice)
	h.authed("POST", "/delete_devices", h.deleteDevices)
}

func (h *Handler) userRoutes() {
	h.open("GET", "/_matrix/client/v3/profile/{user}", h.profile)
	h.open("GET", "/_matrix/client/v3/profile/{user}/{field}", h.profileField)
	h.writes("PUT", "/profile/{user}/{field}", h.setProfileField)
	h.writes("DELETE", "/profile/{user}/{field}", h.deleteProfileField)
	h.authed("GET", "/user/{user}/account_data/{type}", h.accountData)
	h.authed("PUT", "/user/{user}/account_data/{type}", h.setAccountData)
	h.authed("GET", "/user/{user}/rooms/{room}/account_data/{type}", h.roomAccountData)
	h.authed("PUT", "/user/{user}/rooms/{room}/account_data/{type}", h.setRoomAccountData)
	h.authed("GET", "/user/{user}/rooms/{room}/tags", h.tags)
	h.authed("PUT", "/user/{user}/rooms/{room}/tags/{tag}", h.setTag)
	h.authed("DELETE", "/user/{user}/rooms/{room}/tags/{tag}", h.deleteTag)
	h.authed("POST", "/user/{user}/filter", h.saveFilter)
	h.authed("GET", "/user/{user}/filter/{filter}", h.filter)
	h.authed("POST", "/user_directory/search", h.searchUsers)
	h.authed("PUT", "/presence/{user}/status", h.setPresence)
	h.authed("GET", "/presence/{user}/status", h.presence)
}

func (h *Handler) roomRoutes() {
	h.writes("POST", "/createRoom", h.createRoom)
	h.writes("POST", "/join/{room}", h.joinByIDOrAlias)
	h.writes("POST", "/knock/{room}", h.knock)
	h.authed("GET", "/joined_rooms", h.joinedRooms)
	h.authed("GET", "/sync", h.sync)
	h.writes("POST", "/rooms/{room}/join", h.joinByID)
	h.writes("POST", "/rooms/{room}/invite", h.invite)
	h.writes("POST", "/rooms/{room}/leave", h.leave)
	h.writes("POST", "/rooms/{room}/kick", h.kick)
	h.writes("POST", "/rooms/{room}/ban", h.ban)
	h.writes("POST", "/rooms/{room}/unban", h.unban)
	h.authed("POST", "/rooms/{room}/forget", h.forget)
	h.writes("PUT", "/rooms/{room}/send/{type}/{txn}", h.send)
	h.writes("PUT", "/rooms/{room}/redact/{event}/{txn}", h.redact)
	for _, path := range []string{"/rooms/{room}/state/{type}", "/rooms/{room}/state/{type}/", "/rooms/{room}/state/{type}/{key}"} {
		h.writes("PUT", path, h.setState)
		h.authed("GET", path, h.stateEvent)
	}
	h.authed("GET", "/rooms/{room}/state", h.state)
	h.authed("GET", "/rooms/{room}/event/{event}", h.event)
	h.authed("GET", "/rooms/{room}/context/{event}", h.eventContext)
	h.enter("GET", "/_matrix/client/v1/rooms/{room}/timestamp_to_event", true, limitNone, h.eventAtTime)
	h.writes("POST", "/rooms/{room}/report/{event}", h.reportEvent)
	h.writes("POST", "/rooms/{room}/report", h.reportRoom)
	h.authed("GET", "/rooms/{room}/messages", h.messages)
	h.authed("GET", "/rooms/{room}/members", h.members)
	h.authed("GET", "/rooms/{room}/joined_members", h.joinedMembers)
	for _, path := range []string{"", "/{rel}", "/{rel}/{type}"} {
		h.enter("GET", "/_matrix/client/v1/rooms/{room}/relations/{event}"+path, true, limitNone, h.relations)
	}
	h.enter("GET", "/_matrix/client/v1/rooms/{room}/threads", true, limitNone, h.threads)
	h.enter("GET", "/_matrix/client/v1/rooms/{room}/hierarchy", true, limitNone, h.hierarchy)
	h.enter("GET", "/_matrix/client/v1/room_summary/{room}", true, limitNone, h.roomSummary)
	h.enter("GET", "/_matrix/client/unstable/im.nheko.summary/summary/{room}", true, limitNone, h.roomSummary) // its name before v1.15
	h.authed("GET", "/rooms/{room}/aliases", h.roomAliases)
	h.authed("PUT", "/rooms/{room}/typing/{user}", h.typing)
	h.authed("POST", "/rooms/{room}/receipt/{type}/{event}", h.receipt)
	h.authed("POST", "/rooms/{room}/read_markers", h.readMarkers)
	h.writes("POST", "/rooms/{room}/upgrade", h.upgrade)
	h.open("GET", "/_matrix/client/v3/directory/room/{alias}", h.alias)
	h.writes("PUT", "/directory/room/{alias}", h.setAlias)
	h.writes("DELETE", "/directory/room/{alias}", h.deleteAlias)
	h.open("GET", "/_matrix/client/v3/directory/list/room/{room}", h.published)
	h.writes("PUT", "/directory/list/room/{room}", h.publish)
	h.open("GET", "/_matrix/client/v3/publicRooms", h.publicRooms)
	h.authed("POST", "/publicRooms", h.publicRooms)
}

func (h *Handler) keyRoutes() {
	h.authed("POST", "/keys/upload", h.uploadKeys)
	h.authed("POST", "/keys/query", h.queryKeys)
	h.authed("POST", "/keys/claim", h.claimKeys)
	h.authed("GET", "/keys/changes", h.keyChanges)
	h.authed("POST", "/keys/device_signing/upload", h.uploadCrossSigning)
	h.authed("POST", "/keys/signatures/upload", h.uploadSignatures)
	h.authed("PUT", "/sendToDevice/{type}/{txn}", h.sendToDevice)
	h.authed("POST", "/room_keys/version", h.createBackup)
	h.authed("GET", "/room_keys/version", h.backup)
	h.authed("GET", "/room_keys/version/{version}", h.backup)
	h.authed("PUT", "/room_keys/version/{version}", h.updateBackup)
	h.authed("DELETE", "/room_keys/version/{version}", h.deleteBackup)
	for _, path := range []string{"/room_keys/keys", "/room_keys/keys/{room}", "/room_keys/keys/{room}/{session}"} {
		h.authed("PUT", path, h.putBackupKeys)
		h.authed("GET", path, h.backupKeys)
		h.authed("DELETE", path, h.deleteBackupKeys)
	}
}

func (h *Handler) pushRoutes() {
	for _, slash := range []string{"", "/"} {
		h.authed("GET", "/pushrules"+slash, h.pushRules)
		h.authed("GET", "/pushrules/global"+slash, h.pushRulesGlobal)
	}
	const rule = "/pushrules/global/{kind}/{rule}"
	h.authed("GET", rule, h.pushRule)
	h.authed("PUT", rule, h.setPushRule)
	h.authed("DELETE", rule, h.deletePushRule)
	h.authed("GET", rule+"/{attr}", h.pushRuleAttr)
	h.authed("PUT", rule+"/{attr}", h.setPushRuleAttr)
	h.authed("GET", "/pushers", h.pushers)
	h.authed("POST", "/pushers/set", h.setPusher)
}

func (h *Handler) otherRoutes() {
	h.authed("GET", "/voip/turnServer", h.turnServer)
	h.authed("GET", "/thirdparty/protocols", h.nothing)
	h.authed("GET", "/thirdparty/protocol/{protocol}", h.noProtocol)
}

func (h *Handler) mediaRoutes() {
	h.enter("POST", "/_matrix/media/v3/upload", true, limitWrite, h.upload)
	h.enter("PUT", "/_matrix/media/v3/upload/{server}/{media}", true, limitWrite, h.fillMedia)
	h.enter("POST", "/_matrix/media/v1/create", true, limitWrite, h.createMedia)
	h.enter("GET", "/_matrix/media/v3/config", true, limitNone, h.mediaConfig)
	h.enter("GET", "/_matrix/client/v1/media/config", true, limitNone, h.mediaConfig)
	h.enter("GET", "/_matrix/client/v1/media/download/{server}/{media}", true, limitNone, h.download)
	h.enter("GET", "/_matrix/client/v1/media/download/{server}/{media}/{name}", true, limitNone, h.download)
	h.enter("GET", "/_matrix/client/v1/media/thumbnail/{server}/{media}", true, limitNone, h.thumbnail)
	// Without a token, for clients from before v1.11: the ids are unguessable, and the box serves its own network.
	h.open("GET", "/_matrix/media/v3/download/{server}/{media}", h.download)
	h.open("GET", "/_matrix/media/v3/download/{server}/{media}/{name}", h.download)
	h.open("GET", "/_matrix/media/v3/thumbnail/{server}/{media}", h.thumbnail)
}
