package org.traccar.helper;

public class DataConverter {
    public static String printHex(byte[] data) {
        return "";
    }
}
