/*
 * Debian's BIRD links libssh for one transport of RPKI, which a device does not use. This library takes its place in the image,
 * so that no SSH code is there at all: every call fails, and BIRD reports "cannot create SSH session". Symbols: what `bird`
 * imports; a new BIRD that wants another one fails the build's own start check, not a device.
 */
#define REFUSE(name) \
  long name(void) { return -1; }
#define NOTHING(name) \
  void *name(void) { return (void *)0; }

NOTHING(ssh_new)
NOTHING(ssh_channel_new)
NOTHING(ssh_get_error)
REFUSE(ssh_channel_close)
REFUSE(ssh_channel_free)
REFUSE(ssh_channel_is_eof)
REFUSE(ssh_channel_is_open)
REFUSE(ssh_channel_open_session)
REFUSE(ssh_channel_read_nonblocking)
REFUSE(ssh_channel_request_subsystem)
REFUSE(ssh_channel_select)
REFUSE(ssh_channel_write)
REFUSE(ssh_connect)
REFUSE(ssh_disconnect)
REFUSE(ssh_free)
REFUSE(ssh_get_error_code)
REFUSE(ssh_get_fd)
REFUSE(ssh_is_server_known)
REFUSE(ssh_options_set)
REFUSE(ssh_set_blocking)
REFUSE(ssh_userauth_publickey_auto)
