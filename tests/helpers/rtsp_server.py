"""GStreamer's RTSP server with a test picture, as a program: `python3 rtsp_server.py PORT CODEC`; it prints "ready".
Needs Debian's gir1.2-gst-rtsp-server-1.0, python3-gi and the plugins good (JPEG) or ugly (H.264), so it runs with the
system's Python.
"""

import sys

PIPELINES = {
    "jpeg": "jpegenc ! rtpjpegpay name=pay0 pt=26",
    "h264": (
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! video/x-h264,profile=baseline ! rtph264pay"
        " name=pay0 pt=96"
    ),
}


def main(port: str, codec: str) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    for element in [PIPELINES[codec].split()[0], "videotestsrc"]:
        if Gst.ElementFactory.find(element) is None:
            sys.exit(f"no {element}")
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory.new()
    picture = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1"
    factory.set_launch(f"( {picture} ! {PIPELINES[codec]} )")
    factory.set_shared(True)
    server.get_mount_points().add_factory("/cam", factory)
    if not server.attach(None):
        sys.exit("port taken")
    print("ready", flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
