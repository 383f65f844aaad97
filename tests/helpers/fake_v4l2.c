/* A stand-in for the kernel's /dev/video0, loaded in front of libc (LD_PRELOAD): OpenCV's own V4L2 back end opens it, negotiates a format,
 * maps buffers and waits for frames, as with a camera. YUYV in 640x480 or 320x240, 25 frames per second. It is plugged in while the file
 * named by FAKE_CAMERA exists. Built by the tests: cc -shared -fPIC -o fake.so fake_v4l2.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BUFFERS 4
static int fake = -1, width = 640, height = 480, streaming, queued[BUFFERS], next, count;
static unsigned char *memory[BUFFERS];

static int plugged(void) { const char *name = getenv("FAKE_CAMERA"); return name && access(name, F_OK) == 0; }

static int opened(const char *path) {
    if (strcmp(path, "/dev/video0")) return -2;
    if (!plugged()) { errno = ENOENT; return -1; }
    struct itimerspec every = {{0, 40000000}, {0, 40000000}};
    fake = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    timerfd_settime(fake, 0, &every, NULL);
    width = 640; height = 480; streaming = 0;
    return fake;
}

int open(const char *path, int flags, ...) {
    int done = opened(path);
    va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more);
    return done != -2 ? done : ((int (*)(const char *, int, int))dlsym(RTLD_NEXT, "open"))(path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    int done = opened(path);
    va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more);
    return done != -2 ? done : ((int (*)(const char *, int, int))dlsym(RTLD_NEXT, "open64"))(path, flags, mode);
}
int close(int fd) {
    if (fd == fake) fake = -1;
    return ((int (*)(int))dlsym(RTLD_NEXT, "close"))(fd);
}
static void *mapped(off_t offset) { return memory[offset] ? memory[offset] : (memory[offset] = calloc(1, 640 * 480 * 2)); }
void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && fd == fake) return mapped(offset >> 12);
    return ((void *(*)(void *, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap"))(at, size, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off_t offset) { return mmap(at, size, protection, flags, fd, offset); }
int munmap(void *at, size_t size) {
    for (int i = 0; i < BUFFERS; i++) if (at && at == memory[i]) return 0;
    return ((int (*)(void *, size_t))dlsym(RTLD_NEXT, "munmap"))(at, size);
}

static void describe(struct v4l2_pix_format *pix) {
    pix->width = width; pix->height = height; pix->pixelformat = V4L2_PIX_FMT_YUYV; pix->field = V4L2_FIELD_NONE;
    pix->bytesperline = width * 2; pix->sizeimage = width * height * 2; pix->colorspace = V4L2_COLORSPACE_SRGB;
}

static int answer(unsigned long request, void *data) {
    if (!plugged()) { errno = ENODEV; return -1; }
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *cap = data; memset(cap, 0, sizeof *cap);
        strcpy((char *)cap->driver, "fake"); strcpy((char *)cap->card, "Fake Camera");
        cap->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_DEVICE_CAPS;
        cap->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING; return 0; }
    case VIDIOC_ENUMINPUT: {
        struct v4l2_input *input = data; if (input->index) break;
        memset(input, 0, sizeof *input); input->type = V4L2_INPUT_TYPE_CAMERA; return 0; }
    case VIDIOC_G_INPUT: *(int *)data = 0; return 0;
    case VIDIOC_S_INPUT: return 0;
    case VIDIOC_G_FMT: describe(&((struct v4l2_format *)data)->fmt.pix); return 0;
    case VIDIOC_TRY_FMT: case VIDIOC_S_FMT: {
        struct v4l2_pix_format *pix = &((struct v4l2_format *)data)->fmt.pix;
        if (pix->pixelformat != V4L2_PIX_FMT_YUYV) break;
        if (request == VIDIOC_S_FMT) { int small = pix->width <= 320; width = small ? 320 : 640; height = small ? 240 : 480; }
        describe(pix); return 0; }
    case VIDIOC_G_PARM: case VIDIOC_S_PARM: {
        struct v4l2_captureparm *parm = &((struct v4l2_streamparm *)data)->parm.capture;
        parm->capability = V4L2_CAP_TIMEPERFRAME; parm->timeperframe.numerator = 1; parm->timeperframe.denominator = 25; return 0; }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = data; if (wanted->count > BUFFERS) wanted->count = BUFFERS;
        memset(queued, 0, sizeof queued); return 0; }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = data; buffer->length = width * height * 2; buffer->m.offset = buffer->index << 12; return 0; }
    case VIDIOC_QBUF: queued[((struct v4l2_buffer *)data)->index] = 1; return 0;
    case VIDIOC_DQBUF: {
        struct v4l2_buffer *buffer = data; uint64_t passed;
        if (read(fake, &passed, sizeof passed) < 0) { errno = EAGAIN; return -1; }
        for (int tried = 0; tried < BUFFERS && !queued[next]; tried++) next = (next + 1) % BUFFERS;
        if (!queued[next]) { errno = EAGAIN; return -1; }
        unsigned char *to = mapped(next);
        for (int i = 0; i < width * height * 2; i += 2) { to[i] = (unsigned char)(count * 3 + (i / 2) % width); to[i + 1] = 128; }
        queued[next] = 0; buffer->index = next; buffer->bytesused = buffer->length = width * height * 2; buffer->sequence = count++;
        buffer->flags = V4L2_BUF_FLAG_DONE; return 0; }
    case VIDIOC_STREAMON: streaming = 1; return 0;
    case VIDIOC_STREAMOFF: streaming = 0; return 0;
    }
    errno = EINVAL; return -1;
}

int ioctl(int fd, unsigned long request, ...) {
    va_list more; va_start(more, request); void *data = va_arg(more, void *); va_end(more);
    if (fd >= 0 && fd == fake) return answer(request & 0xffffffffUL, data);
    return ((int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl"))(fd, request, data);
}
