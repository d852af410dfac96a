/*
 * Process 1 of a device: mounts, loads modules, keeps the agent running, reboots when told to. It has no shell to fall back to
 * and never exits: should it die all the same, the kernel panics and `panic=5` boots the image anew.
 *
 * SIGTERM, SIGINT (also ctrl-alt-del): end every process, sync, reboot. What to run and load is data of image/profile.ts:
 *   /etc/offbox/modules  one module file a line, in order    /etc/offbox/agent  NAME=VALUE for its environment, then its arguments, one a line
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RESPAWN_DELAY_MS 1000  /* long enough not to spin on a broken image, short enough for a hot restart */
#define GRACE_S 3          /* what processes get to end by themselves before a reboot */
#define ARGUMENTS_MAX 16
#define VARIABLES_MAX 8
#define MOUNT_SAFE (MS_NOSUID | MS_NODEV | MS_NOEXEC)

static sigset_t waited;

static void complain(const char *what, const char *which) { fprintf(stderr, "init: %s %s: %s\n", what, which, strerror(errno)); }

static void attach(const char *type, const char *at, unsigned long flags, const char *options) {
  mkdir(at, 0755);
  if (mount(type, at, type, flags, options) < 0) complain("mount", at);
}

/* The kernel gives process 1 the console of the initramfs; the one on devtmpfs replaces it, so that both are the same device. */
static void take_console(void) {
  int console = open("/dev/console", O_RDWR);
  for (int fd = 0; console >= 0 && fd < 3; fd++) dup2(console, fd);
  if (console > 2) close(console);
}

static void load_modules(void) {
  char line[256];
  FILE *list = fopen("/etc/offbox/modules", "re");
  if (!list) return complain("open", "/etc/offbox/modules");
  while (fgets(line, sizeof line, list)) {
    line[strcspn(line, "\n")] = 0;
    int module = open(line, O_RDONLY | O_CLOEXEC);
    if (module < 0 || syscall(SYS_finit_module, module, "", 0) < 0) complain("load", line);
    if (module >= 0) close(module);
  }
  fclose(list);
}

/* No router of the network gives this device an address or a route: both come from the boot server and the agent. */
static void refuse_advertisements(void) {
  static const char *path = "/proc/sys/net/ipv6/conf/default/accept_ra";
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, "0", 1) < 0) complain("write", path);
  if (fd >= 0) close(fd);
}

static void loopback_up(void) {
  struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0) complain("bring up", "lo");
  if (fd >= 0) close(fd);
}

static long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static pid_t start_agent(void) {
  static char text[4096];
  static char *arguments[ARGUMENTS_MAX + 1];
  static char *environment[VARIABLES_MAX + 1] = {"PATH=/sbin:/usr/sbin:/bin", "HOME=/", "LANG=C.UTF-8"};
  pid_t pid = fork();
  if (pid != 0) {
    if (pid < 0) complain("fork", "agent");
    return pid;
  }
  int list = open("/etc/offbox/agent", O_RDONLY | O_CLOEXEC);
  if (list < 0 || read(list, text, sizeof text - 1) < 0) complain("read", "/etc/offbox/agent");
  int count = 0, variables = 3;
  for (char *word = strtok(text, "\n"); word && count < ARGUMENTS_MAX; word = strtok(NULL, "\n")) {
    if (count > 0 || *word == '/') arguments[count++] = word;
    else if (variables < VARIABLES_MAX) environment[variables++] = word;
  }
  sigprocmask(SIG_UNBLOCK, &waited, NULL); /* a blocked SIGTERM would be inherited */
  setsid();
  if (count > 0) execve(arguments[0], arguments, environment);
  complain("run", count > 0 ? arguments[0] : "nothing");
  _exit(127);
}

static void restart_machine(void) {
  struct timespec tick = {0, 100 * 1000 * 1000};
  fprintf(stderr, "init: rebooting\n");
  kill(-1, SIGTERM);
  for (int i = 0; i < GRACE_S * 10; i++) {
    while (waitpid(-1, NULL, WNOHANG) > 0) {}
    if (waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD) break;
    nanosleep(&tick, NULL);
  }
  kill(-1, SIGKILL);
  sync();
  reboot(RB_AUTOBOOT);
  _exit(1); /* refused: a panic reboots as well */
}

int main(void) {
  pid_t agent = -1;
  long long start_at_ms = 0;
  sigfillset(&waited);
  sigprocmask(SIG_BLOCK, &waited, NULL);
  umask(022);
  attach("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC, "mode=0755");
  take_console();
  attach("proc", "/proc", MOUNT_SAFE, "");
  attach("sysfs", "/sys", MOUNT_SAFE, "");
  attach("cgroup2", "/sys/fs/cgroup", MOUNT_SAFE, "favordynmods");
  attach("tmpfs", "/run", MOUNT_SAFE, "mode=0755,size=32m");
  attach("tmpfs", "/tmp", MOUNT_SAFE, "mode=1777,size=32m");
  attach("tmpfs", "/state", MOUNT_SAFE, "mode=0700,size=128m");
  reboot(RB_DISABLE_CAD);
  refuse_advertisements();
  load_modules();
  loopback_up();
  for (;;) {
    if (agent < 0 && now_ms() >= start_at_ms) {
      agent = start_agent();
      start_at_ms = now_ms() + RESPAWN_DELAY_MS; /* also the pause after a fork that failed */
    }
    struct timespec wait = {agent < 0 ? 0 : 60, 50 * 1000 * 1000};
    int signal = sigtimedwait(&waited, NULL, &wait);
    if (signal == SIGTERM || signal == SIGINT) restart_machine();
    for (pid_t gone; (gone = waitpid(-1, NULL, WNOHANG)) > 0;) {
      if (gone != agent) continue;
      agent = -1;
      start_at_ms = now_ms() + RESPAWN_DELAY_MS;
      fprintf(stderr, "init: the agent ended, starting it again\n");
    }
  }
}
